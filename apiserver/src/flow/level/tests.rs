use super::*;
use serde_json::json;

fn level(seats: usize, queues: usize, length: usize) -> Arc<Level> {
    let shape = Shape {
        seats,
        queues,
        hand: queues.min(2),
        length,
        ..Shape::default()
    };
    Arc::new(Level::new(shape, Arc::default()))
}

/// Two levels that lend: seats, lendable and borrowing limit of each.
fn pair(shapes: [(usize, usize, usize); 2]) -> [Arc<Level>; 2] {
    let group = Arc::new(Group::default());
    let levels = shapes.map(|(seats, lendable, borrowing)| {
        let shape = Shape {
            seats,
            lendable,
            borrowing,
            queues: 1,
            hand: 1,
            length: 10,
            ..Shape::default()
        };
        Arc::new(Level::new(shape, group.clone()))
    });
    group.set(levels.iter().map(Arc::downgrade).collect());
    levels
}

/// A user with a flow of the same number.
fn user(number: u64) -> By {
    By {
        flow: number,
        user: number,
    }
}

fn counts(level: &Level) -> [usize; 4] {
    [&level.taken, &level.lent, &level.borrowed, &level.waiting].map(|counter| counter.load(Ordering::SeqCst))
}

const SOON: Duration = Duration::from_millis(1);
const LATE: Duration = Duration::from_secs(3600);

#[test]
fn shapes() {
    let limited = json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 20,
        "limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 3}}}}});
    let shape = Shape::new(&limited, 600, 245);
    assert_eq!((shape.seats, shape.queues, shape.hand, shape.length), (49, 4, 2, 3));
    assert_eq!((shape.lendable, shape.borrowing), (0, usize::MAX));
    let mut lends = limited.clone();
    lends["spec"]["limited"]["lendablePercent"] = json!(33);
    lends["spec"]["limited"]["borrowingLimitPercent"] = json!(200);
    let shape = Shape::new(&lends, 600, 245);
    assert_eq!((shape.lendable, shape.borrowing), (16, 98));
    assert!(Shape::new(&json!({"spec": {"type": "Exempt"}}), 600, 245).exempt);
}

#[test]
fn hands_are_cards_of_one_deck() {
    for flow in 0..500u64 {
        let mut cards = hand(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15), 64, 6);
        cards.sort_unstable();
        cards.dedup();
        assert_eq!(cards.len(), 6, "{flow}");
        assert!(cards.iter().all(|card| *card < 64), "{flow}");
    }
}

#[tokio::test]
async fn a_full_level_refuses_or_lets_wait() {
    let reject = level(1, 0, 0);
    let seat = reject.seat(user(1), 1, LATE).await.expect("a seat");
    assert_eq!(reject.seat(user(2), 1, LATE).await.err(), Some(Refused::Full));
    drop(seat);
    drop(reject.seat(user(2), 1, LATE).await.expect("a seat"));
    assert_eq!(reject.taken.load(Ordering::SeqCst), 0);

    let queued = level(1, 1, 1);
    let seat = queued.seat(user(1), 1, LATE).await.expect("a seat");
    assert_eq!(queued.seat(user(1), 1, SOON).await.err(), Some(Refused::TimedOut));
    let other = queued.clone();
    let waiting = tokio::spawn(async move { other.seat(user(1), 1, LATE).await });
    tokio::task::yield_now().await;
    assert_eq!(queued.seat(user(1), 1, LATE).await.err(), Some(Refused::Full));
    drop(seat);
    drop(waiting.await.expect("a task").expect("a seat"));
    assert_eq!(queued.taken.load(Ordering::SeqCst), 0);
    assert_eq!(queued.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn flows_take_turns() {
    let shape = Shape {
        seats: 1,
        queues: 2,
        hand: 1,
        length: 10,
        ..Shape::default()
    };
    let level = Arc::new(Level::new(shape, Arc::default()));
    let seat = level.seat(user(0), 1, LATE).await.expect("a seat");
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    // Four of one flow come first, then one of another.
    for flow in [0, 0, 0, 0, 1] {
        let (level, order) = (level.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            let seat = level.seat(user(flow), 1, LATE).await.expect("a seat");
            order.lock().expect("a list").push(flow);
            drop(seat);
        }));
        tokio::task::yield_now().await;
    }
    drop(seat);
    for task in tasks {
        task.await.expect("a task");
    }
    assert_eq!(*order.lock().expect("a list"), [0, 1, 0, 0, 0]);
    assert_eq!(level.taken.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_seat_is_lost_or_taken_twice() {
    let level = level(3, 4, 1000);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for flow in 0..400u64 {
        let (level, running, most) = (level.clone(), running.clone(), most.clone());
        tasks.push(tokio::spawn(async move {
            let _seat = level.seat(user(flow % 7), 1, LATE).await.expect("a seat");
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
        }));
    }
    for task in tasks {
        task.await.expect("a task");
    }
    assert!(most.load(Ordering::SeqCst) <= 3);
    assert_eq!(level.taken.load(Ordering::SeqCst), 0);
    assert_eq!(level.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn idle_seats_are_lent_within_bounds() {
    let [a, b] = pair([(2, 1, 0), (1, 1, 5)]);
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(b.seat(user(0), 1, LATE).await.expect("an own seat and one of a's"));
    }
    assert_eq!((counts(&a), counts(&b)), ([1, 1, 0, 0], [1, 0, 1, 0]));
    assert_eq!(
        b.seat(user(0), 1, SOON).await.err(),
        Some(Refused::TimedOut),
        "a lends one"
    );
    held.push(a.seat(user(0), 1, LATE).await.expect("the seat that is never lent"));
    assert_eq!(
        a.seat(user(0), 1, SOON).await.err(),
        Some(Refused::TimedOut),
        "a borrows none"
    );
    drop(held);
    assert_eq!((counts(&a), counts(&b)), ([0; 4], [0; 4]));
}

#[tokio::test]
async fn a_lent_seat_goes_back_to_who_waits_for_it() {
    let [a, b] = pair([(1, 1, 0), (1, 0, 1)]);
    let own = b.seat(user(0), 1, LATE).await.expect("its own");
    let lent = b.seat(user(0), 1, LATE).await.expect("a's");
    let waits = |level: &Arc<Level>| {
        let level = level.clone();
        tokio::spawn(async move { level.seat(user(0), 1, LATE).await.map(drop) })
    };
    let (first, second) = (waits(&a), waits(&b));
    tokio::task::yield_now().await;
    assert_eq!((counts(&a)[3], counts(&b)[3]), (1, 1));
    drop(lent);
    assert_eq!(first.await.expect("a task"), Ok(()));
    // And when a needs it no more, who waits at b may have it.
    assert_eq!(second.await.expect("a task"), Ok(()));
    drop(own);
    assert_eq!((counts(&a), counts(&b)), ([0; 4], [0; 4]));
}

#[tokio::test]
async fn wide_requests_take_several_seats() {
    let wide = level(4, 0, 0);
    let seat = wide.seat(user(0), 100, LATE).await.expect("as many as there are");
    assert_eq!(counts(&wide)[0], 4);
    assert_eq!(wide.seat(user(0), 1, LATE).await.err(), Some(Refused::Full));
    drop(seat);
    assert_eq!(counts(&wide)[0], 0);
}

#[tokio::test]
async fn one_user_never_has_all_seats() {
    let shape = Shape {
        seats: 16,
        queues: 1,
        hand: 1,
        length: 100,
        ..Shape::default()
    };
    let level = Arc::new(Level::new(shape, Arc::default()));
    let mut held = Vec::new();
    while let Ok(seat) = level.seat(user(1), 1, SOON).await {
        held.push(seat);
    }
    assert_eq!(held.len(), 14);
    // Many of the same user wait; another is served at once.
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let level = level.clone();
            tokio::spawn(async move { level.seat(user(1), 1, LATE).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let others = [
        level.seat(user(2), 1, SOON).await.expect("a spared seat"),
        level.seat(user(3), 1, SOON).await.expect("a spared seat"),
    ];
    assert_eq!(level.seat(user(4), 1, SOON).await.err(), Some(Refused::TimedOut));
    drop((held, others));
    for task in waiting {
        drop(task.await.expect("a task").expect("a seat"));
    }
    assert_eq!(counts(&level), [0; 4]);
    assert!(level.users.iter().all(|user| user.load(Ordering::SeqCst) == 0));
}

#[tokio::test]
async fn a_user_who_fills_the_only_queue_gives_way() {
    let shape = Shape {
        seats: 1,
        queues: 1,
        hand: 1,
        length: 4,
        ..Shape::default()
    };
    let level = Arc::new(Level::new(shape, Arc::default()));
    let seat = level.seat(user(1), 1, LATE).await.expect("a seat");
    let order = Arc::new(Mutex::new(Vec::new()));
    let wait = |number: u64| {
        let (level, order) = (level.clone(), order.clone());
        tokio::spawn(async move {
            let seat = level.seat(user(number), 1, LATE).await;
            if seat.is_ok() {
                order.lock().expect("a list").push(number);
            }
            seat.map(drop)
        })
    };
    let greedy: Vec<_> = (0..4).map(|_| wait(1)).collect();
    tokio::task::yield_now().await;
    let others = [wait(2), wait(3)];
    tokio::task::yield_now().await;
    // The greedy user has two places left, as many as the others together.
    assert_eq!(level.seat(user(1), 1, LATE).await.err(), Some(Refused::Full));
    drop(seat);
    for task in others {
        assert_eq!(task.await.expect("a task"), Ok(()));
    }
    let mut refused = 0;
    for task in greedy {
        refused += usize::from(task.await.expect("a task") == Err(Refused::Full));
    }
    assert_eq!(refused, 2);
    assert_eq!(order.lock().expect("a list").len(), 4);
    assert_eq!(counts(&level), [0; 4]);
}

#[tokio::test]
async fn who_has_fewer_seats_is_served_first() {
    let shape = Shape {
        seats: 4,
        queues: 1,
        hand: 1,
        length: 10,
        ..Shape::default()
    };
    let level = Arc::new(Level::new(shape, Arc::default()));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(level.seat(user(1), 1, LATE).await.expect("a seat"));
    }
    let wait = |number: u64| {
        let level = level.clone();
        tokio::spawn(async move { level.seat(user(number), 1, LATE).await })
    };
    let (greedy, modest) = (wait(1), wait(2));
    tokio::task::yield_now().await;
    drop(held.pop());
    let modest = modest.await.expect("a task").expect("a seat");
    assert!(!greedy.is_finished());
    drop((held, modest));
    drop(greedy.await.expect("a task").expect("a seat"));
    assert_eq!(counts(&level), [0; 4]);
}
