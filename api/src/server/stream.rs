//! Bodies that come in pieces, as fast as the client takes them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

/// Takes the pieces. An error breaks the body off, so that nobody takes it for whole.
pub(super) type Sender = mpsc::Sender<io::Result<Bytes>>;

/// A body, and where its pieces go. It ends when the sender is dropped, and the sender is closed
/// when the client goes.
pub(super) fn channel() -> (Sender, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Body::new(Channel(receiver)))
}

struct Channel(mpsc::Receiver<io::Result<Bytes>>);

impl HttpBody for Channel {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
