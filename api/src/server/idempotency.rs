//! Requests sent twice: the same `Idempotency-Key` gets the same answer, and nothing is made
//! again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_128;

use super::App;
use super::body;
use crate::problem::Problem;

/// The header with the key.
const KEY: &str = "idempotency-key";
/// The header of an answer that was given before.
pub(super) const REPLAYED: &str = "idempotent-replayed";
/// The routes that have it: those that make sandboxes.
const ROUTES: [&str; 2] = ["/v1/sandboxes", "/v1/sandboxes/{id}/fork"];
/// Longest key, characters.
const MAX_KEY: usize = 255;
/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Most answers that are kept.
const MAX_ANSWERS: usize = 10_000;
/// Most bytes of answers that are kept: an answer may tell of a thousand sandboxes.
const MAX_BYTES: usize = 64 << 20;

/// Answers by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<String, Entry>,
    /// The keys of those that are finished, the oldest first.
    finished: VecDeque<(Instant, String)>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    wish: Wish,
    /// None until the first request has its answer.
    answer: watch::Receiver<Option<Answer>>,
}

/// What was asked for: the path, and a hash of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    path: String,
    body: u128,
}

/// An answer.
#[derive(Clone, Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    async fn of(response: Response) -> Result<Self, Problem> {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX)
            .await
            .map_err(|error| Problem::internal(format!("the answer broke off: {error}")))?;
        Ok(Self { status: parts.status, headers: parts.headers, body })
    }

    /// Whether another try would get the same.
    fn is_final(&self) -> bool {
        !self.status.is_server_error() && self.status != StatusCode::TOO_MANY_REQUESTS
    }

    fn again(self) -> Response {
        let mut response = self.into_response();
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// What a request with a key is.
enum Begun {
    /// The first: it has to be served, and its answer told.
    First(First),
    /// The same again.
    Again(watch::Receiver<Option<Answer>>),
    /// Another with the same key.
    Other,
}

impl Answers {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, key: &str, wish: Wish, now: Instant) -> Begun {
        let mut kept = self.kept();
        kept.forget_old(now);
        match kept.by_key.get(key) {
            Some(entry) if entry.wish != wish => return Begun::Other,
            Some(entry) => return Begun::Again(entry.answer.clone()),
            None => {}
        }
        let (tell, answer) = watch::channel(None);
        kept.by_key.insert(key.to_owned(), Entry { wish, answer });
        Begun::First(First { answers: self.clone(), key: Some(key.to_owned()), tell })
    }
}

impl Kept {
    fn forget_old(&mut self, now: Instant) {
        while let Some((finished, _)) = self.finished.front()
            && now.duration_since(*finished) >= KEPT_FOR
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, key)) = self.finished.pop_front() else { return };
        if let Some(entry) = self.by_key.remove(&key) {
            self.bytes -= entry.answer.borrow().as_ref().map_or(0, |answer| answer.body.len());
        }
    }
}

/// A first request under way. Dropped without an answer, it leaves its key to the next.
struct First {
    answers: Answers,
    key: Option<String>,
    tell: watch::Sender<Option<Answer>>,
}

impl First {
    /// Tells `answer` to those who wait for it, and keeps it if it is final.
    fn finish(mut self, answer: Answer, now: Instant) {
        if answer.is_final()
            && let Some(key) = self.key.take()
        {
            let mut kept = self.answers.kept();
            kept.finished.push_back((now, key));
            kept.bytes += answer.body.len();
            self.tell.send_replace(Some(answer));
            // The newest always stays.
            while kept.finished.len() > 1
                && (kept.finished.len() > MAX_ANSWERS || kept.bytes > MAX_BYTES)
            {
                kept.forget_oldest();
            }
        } else {
            self.tell.send_replace(Some(answer));
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.answers.kept().by_key.remove(&key);
        }
    }
}

/// Answers a request whose key was seen before as it was answered then.
pub(super) async fn once(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let has_keys = route.is_some_and(|route| ROUTES.contains(&route));
    if request.method() != Method::POST || !has_keys {
        return next.run(request).await;
    }
    match key(request.headers()) {
        Ok(None) => next.run(request).await,
        Ok(Some(key)) => match keyed(&app, key, request, next).await {
            Ok(response) => response,
            Err(problem) => problem.into_response(),
        },
        Err(problem) => problem.into_response(),
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let printable = |byte: &u8| (b' '..=b'~').contains(byte);
    let good = (1..=MAX_KEY).contains(&value.len()) && value.as_bytes().iter().all(printable);
    match value.to_str() {
        Ok(text) if good && values.next().is_none() => Ok(Some(text.to_owned())),
        _ => {
            let detail = format!("an idempotency key is 1 to {MAX_KEY} printable ASCII characters");
            Err(Problem::malformed(detail).at("Idempotency-Key"))
        }
    }
}

async fn keyed(app: &App, key: String, request: Request, next: Next) -> Result<Response, Problem> {
    let (parts, content) = request.into_parts();
    let bytes = body::read(Request::from_parts(parts.clone(), content), app).await?;
    let wish = Wish { path: parts.uri.path().to_owned(), body: xxh3_128(&bytes) };
    loop {
        match app.answers.begin(&key, wish.clone(), Instant::now()) {
            Begun::Other => {
                let detail = "this key came with another request before; use a new one for each";
                return Err(Problem::value("Idempotency-Key", detail));
            }
            Begun::Again(mut answer) => {
                // An error: the first request died without an answer. Then this is the first.
                if let Ok(answer) = answer.wait_for(Option::is_some).await
                    && let Some(answer) = answer.clone()
                {
                    return Ok(answer.again());
                }
            }
            Begun::First(first) => {
                let request = Request::from_parts(parts, Body::from(bytes));
                // A task: the answer must be there for the next try if the client hangs up now.
                let served = tokio::spawn(async move {
                    let answer = Answer::of(next.run(request).await).await?;
                    first.finish(answer.clone(), Instant::now());
                    Ok(answer.into_response())
                });
                return served.await.unwrap_or_else(|error| {
                    Err(Problem::internal(format!("the operation died: {error}")))
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(path: &str) -> Wish {
        Wish { path: path.to_owned(), body: xxh3_128(b"{}") }
    }

    fn answer(status: StatusCode, bytes: usize) -> Answer {
        Answer { status, headers: HeaderMap::new(), body: vec![b'x'; bytes].into() }
    }

    fn first(answers: &Answers, key: &str, now: Instant) -> First {
        match answers.begin(key, wish("/a"), now) {
            Begun::First(first) => first,
            _ => panic!("{key} is known"),
        }
    }

    fn is_known(answers: &Answers, key: &str, now: Instant) -> bool {
        matches!(answers.begin(key, wish("/a"), now), Begun::Again(_))
    }

    #[test]
    fn a_key_is_for_one_request_and_for_a_day() {
        let (answers, now) = (Answers::default(), Instant::now());
        first(&answers, "k", now).finish(answer(StatusCode::CREATED, 3), now);
        let Begun::Again(kept) = answers.begin("k", wish("/a"), now) else { panic!() };
        assert_eq!(kept.borrow().as_ref().unwrap().body, "xxx");
        assert!(matches!(answers.begin("k", wish("/b"), now), Begun::Other));
        let other = Wish { path: "/a".into(), body: xxh3_128(b"{ }") };
        assert!(matches!(answers.begin("k", other, now), Begun::Other));
        let late = now + KEPT_FOR;
        assert!(is_known(&answers, "k", late - Duration::from_secs(1)));
        drop(first(&answers, "k", late));
        let kept = answers.kept();
        assert!(kept.by_key.is_empty() && kept.finished.is_empty() && kept.bytes == 0);
    }

    #[tokio::test]
    async fn those_who_wait_get_an_answer_that_is_not_kept() {
        let (answers, now) = (Answers::default(), Instant::now());
        for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS] {
            let first = first(&answers, "k", now);
            let Begun::Again(mut waits) = answers.begin("k", wish("/a"), now) else { panic!() };
            first.finish(answer(status, 1), now);
            let told = waits.wait_for(Option::is_some).await.unwrap().clone().unwrap();
            assert_eq!(told.status, status);
            assert!(!is_known(&answers, "k", now), "a retry tries again");
        }
        let first = first(&answers, "k", now);
        let Begun::Again(mut waits) = answers.begin("k", wish("/a"), now) else { panic!() };
        drop(first);
        assert!(waits.wait_for(Option::is_some).await.is_err(), "it died");
        assert!(answers.kept().by_key.is_empty());
    }

    #[test]
    fn the_oldest_finished_goes_first_and_those_under_way_stay() {
        let (answers, now) = (Answers::default(), Instant::now());
        let pending = first(&answers, "pending", now);
        for number in 0..=MAX_ANSWERS {
            first(&answers, &number.to_string(), now).finish(answer(StatusCode::CREATED, 1), now);
        }
        assert_eq!(answers.kept().finished.len(), MAX_ANSWERS);
        assert_eq!(answers.kept().by_key.len(), MAX_ANSWERS + 1);
        assert!(is_known(&answers, "pending", now) && is_known(&answers, "1", now));
        drop(first(&answers, "0", now));
        let large = answer(StatusCode::CREATED, MAX_BYTES);
        first(&answers, "large", now).finish(large, now);
        let kept = answers.kept();
        assert_eq!((kept.finished.len(), kept.bytes), (1, MAX_BYTES));
        drop(kept);
        drop(pending);
    }

    #[test]
    fn keys_are_printable() {
        let of = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEY, HeaderValue::from_bytes(value).unwrap());
            }
            key(&headers)
        };
        assert!(matches!(of(&[]), Ok(None)));
        assert_eq!(of(&[b"a b~"]).unwrap().unwrap(), "a b~");
        assert!(of(&[&[b'x'; MAX_KEY]]).is_ok());
        let wrong: [&[&[u8]]; 5] =
            [&[b""], &[&[b'x'; MAX_KEY + 1]], &["é".as_bytes()], &[b"a\tb"], &[b"a", b"b"]];
        for wrong in wrong {
            assert_eq!(of(wrong).unwrap_err().status, 400, "{wrong:?}");
        }
    }
}
