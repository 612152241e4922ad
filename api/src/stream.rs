//! Bodies that are made while they are sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc::Receiver;

/// What comes through a channel, as a body. An error breaks it off, so that nobody takes what
/// there is for all.
pub struct Channel<E>(pub Receiver<Result<Bytes, E>>);

impl<E> Body for Channel<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
