use super::*;

use std::sync::atomic::{AtomicU32, Ordering};

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_fails_its_check_until_it_runs_again() {
    let (supervisor, token) = (Supervisor::default(), CancellationToken::new());
    let starts = Arc::new(AtomicU32::new(0));
    let (keeper, stop, counted) = (supervisor.clone(), token.clone(), starts.clone());
    let kept = tokio::spawn(async move {
        keeper
            .keep("test/task", &stop, || {
                let (start, stop) = (counted.fetch_add(1, Ordering::Relaxed), stop.clone());
                async move {
                    match start {
                        0 => panic!("a defect"),
                        1 => {}
                        _ => stop.cancelled().await,
                    }
                }
            })
            .await;
    });
    let wait = |passed_ms| tokio::time::sleep(Duration::from_millis(passed_ms));
    wait(500).await;
    let failed = supervisor.failed();
    assert_eq!(failed, [("test/task".to_owned(), "it panicked: a defect".to_owned())]);
    // Restarted after one second, ended at once, restarted after two.
    wait(1_000).await;
    let failed = supervisor.failed();
    assert_eq!(
        failed,
        [("test/task".to_owned(), "it ended before it was told to".to_owned())]
    );
    wait(2_000).await;
    let healthy = TaskHealth {
        failed: None,
        restarts: 2,
    };
    assert_eq!(supervisor.tasks().get("test/task"), Some(&healthy));
    assert_eq!(panics().get("test/task"), Some(&1));
    token.cancel();
    kept.await.expect("it ends when it is told to");
    assert_eq!(supervisor.tasks(), BTreeMap::new());
}

#[tokio::test]
async fn a_wait_of_any_length_has_an_end() {
    for wait in [
        Duration::ZERO,
        Duration::from_nanos(1),
        WAIT_MAX,
        Duration::from_secs(i64::MAX as u64),
        Duration::MAX,
    ] {
        let until = deadline(wait);
        assert!(until <= later(Instant::now(), WAIT_MAX), "{wait:?}");
    }
}
