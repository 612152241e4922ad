//! The daemon's end: what is under way is finished, and nothing new begins.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::sync::watch;

use super::App;
use crate::problem::Problem;

/// Whether the daemon is about to end, and how much is under way.
#[derive(Clone)]
pub(super) struct Drain {
    state: Arc<watch::Sender<Flow>>,
    /// How long it takes at most.
    limit: Duration,
}

#[derive(Default)]
struct Flow {
    draining: bool,
    under_way: usize,
}

/// Something under way; it has ended when this is dropped.
pub(super) struct UnderWay(Arc<watch::Sender<Flow>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|flow| flow.under_way -= 1);
    }
}

/// An answer that never ends by itself: it is not waited for.
#[derive(Clone)]
pub(super) struct Endless;

impl Drain {
    /// One that takes `limit` at most, once it has begun.
    pub fn new(limit: Duration) -> Self {
        Self { state: Arc::new(watch::Sender::default()), limit }
    }

    /// Something begins that should not be broken off.
    pub fn enter(&self) -> UnderWay {
        self.state.send_modify(|flow| flow.under_way += 1);
        UnderWay(Arc::clone(&self.state))
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.state.borrow().draining
    }

    /// Refuses what would make sandboxes, if it has begun.
    pub fn check(&self) -> Result<(), Problem> {
        if !self.has_begun() {
            return Ok(());
        }
        let detail = "the daemon is stopping, and makes no sandboxes any more";
        Err(Problem::unavailable(detail).retry_after(self.limit.as_secs() + 1))
    }

    /// Begins, and waits for what is under way.
    pub async fn run(&self) {
        self.state.send_modify(|flow| flow.draining = true);
        let mut state = self.state.subscribe();
        let idle = state.wait_for(|flow| flow.under_way == 0);
        if tokio::time::timeout(self.limit, idle).await.is_err() {
            let count = self.state.borrow().under_way;
            tracing::warn!(count, "requests still under way are broken off");
        }
    }
}

/// Counts a request as under way until the last of its answer.
pub(super) async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let under_way = app.drain.enter();
    let response = next.run(request).await;
    if response.extensions().get::<Endless>().is_some() {
        return response;
    }
    response.map(|body| Body::new(Counted { body, _under_way: under_way }))
}

/// A body that is under way until it is dropped.
struct Counted {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_what_is_under_way_and_not_for_ever() {
        let drain = Drain::new(Duration::from_secs(5));
        assert!(drain.check().is_ok());
        let one = drain.enter();
        let begun = tokio::time::Instant::now();
        let running = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let problem = drain.check().unwrap_err();
        assert_eq!((problem.status, problem.retry_after), (503, Some(6)));
        let late = drain.enter();
        drop(one);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!running.is_finished());
        drop(late);
        running.await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(2));

        let _never = drain.enter();
        drain.run().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(7));
    }
}
