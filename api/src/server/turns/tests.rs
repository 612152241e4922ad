use super::*;
use crate::metrics::Metrics;

use tokio::task::{JoinHandle, yield_now};

fn turns(most: usize, queue: usize) -> Turns {
    Turns::new(most, queue, Metrics::new().queue)
}

/// Has one wait for `key`, who tells `order` when its turn comes.
async fn wait(turns: &Turns, key: &'static str, order: &Order) -> JoinHandle<Result<(), Problem>> {
    let (turns, order) = (turns.clone(), Arc::clone(order));
    let handle = tokio::spawn(async move {
        let _turn = turns.take(key).await?;
        order.lock().unwrap().push(key);
        Ok(())
    });
    yield_now().await;
    handle
}

type Order = Arc<Mutex<Vec<&'static str>>>;

/// Whether nothing is left: all turns are free, and nobody waits.
fn idle(turns: &Turns) -> bool {
    let state = turns.0.state();
    state.free == turns.0.most
        && state.waiting == 0
        && state.lanes.is_empty()
        && state.ring.is_empty()
        && turns.0.metrics.length.get() == 0
}

#[tokio::test(start_paused = true)]
async fn keys_are_served_in_turn() {
    let (turns, order) = (turns(1, 10), Order::default());
    let held = turns.take("x").await.unwrap();
    let mut waiting = vec![];
    for key in ["a", "a", "a", "b", "c", "b"] {
        waiting.push(wait(&turns, key, &order).await);
    }
    assert_eq!(turns.0.metrics.length.get(), 6);
    drop(held);
    for handle in waiting {
        handle.await.unwrap().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), ["a", "b", "c", "a", "b", "a"]);
    assert!(idle(&turns));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_says_when_to_come_again() {
    let (turns, order) = (turns(2, 2), Order::default());
    let held = [turns.take("x").await.unwrap(), turns.take("x").await.unwrap()];
    let first = wait(&turns, "a", &order).await;
    let second = wait(&turns, "b", &order).await;
    turns.0.state().mean = 3.0;
    let problem = turns.take("c").await.unwrap_err();
    // Three of 3 s each by two at once.
    assert_eq!((problem.status, problem.retry_after), (429, Some(5)));
    assert_eq!(turns.0.metrics.refused.get(), 1);
    drop(held);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert!(idle(&turns));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_key_gives_its_places_to_others() {
    let (turns, order) = (turns(1, 4), Order::default());
    let held = turns.take("x").await.unwrap();
    let mut flood = vec![];
    for _ in 0..5 {
        flood.push(wait(&turns, "flood", &order).await);
    }
    let other = wait(&turns, "other", &order).await;
    drop(held);
    other.await.unwrap().unwrap();
    let mut refused = 0;
    for handle in flood {
        refused += u32::from(handle.await.unwrap().is_err());
    }
    assert_eq!(refused, 2, "one found the queue full, one was displaced");
    assert_eq!(*order.lock().unwrap(), ["flood", "other", "flood", "flood"]);
    assert!(idle(&turns));
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let turns = turns(1, 4);
    let held = turns.take("x").await.unwrap();
    let begun = Instant::now();
    assert_eq!(turns.take("a").await.unwrap_err().status, 429);
    assert_eq!(begun.elapsed(), PATIENCE);
    drop(held);
    assert!(idle(&turns));
    assert!(turns.0.state().mean > 1.0, "a long turn counts");
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_away_gives_its_place_back() {
    let (turns, order) = (turns(1, 2), Order::default());
    let held = turns.take("x").await.unwrap();
    let gone = wait(&turns, "a", &order).await;
    let stays = wait(&turns, "b", &order).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(turns.0.metrics.length.get(), 1);
    drop(held);
    stays.await.unwrap().unwrap();

    // The turn has come, and nobody has looked yet.
    let held = turns.take("x").await.unwrap();
    let gone = wait(&turns, "a", &order).await;
    drop(held);
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert!(idle(&turns), "the turn of one who went is not lost");
    assert_eq!(*order.lock().unwrap(), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_and_goes_loses_no_turn() {
    let turns = turns(3, 50);
    let mut crowd = vec![];
    for number in 0..400u64 {
        let turns = turns.clone();
        let one = tokio::spawn(async move {
            let Ok(_turn) = turns.take(["a", "b", "c"][number as usize % 3]).await else { return };
            tokio::time::sleep(Duration::from_micros(number % 7 * 50)).await;
        });
        if number % 5 == 0 {
            tokio::time::sleep(Duration::from_micros(number % 11 * 30)).await;
            one.abort();
        }
        crowd.push(one);
    }
    for one in crowd {
        // Those that were stopped are the point.
        let _stopped = one.await;
    }
    assert!(idle(&turns));
}
