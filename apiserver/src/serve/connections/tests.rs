use futures::FutureExt;
use http_body_util::BodyExt;

use super::*;
use crate::serve::response;

fn limits() -> ConnectionLimits {
    ConnectionLimits {
        connections: 20,
        unproven: 10,
        per_user: 5,
        ..ConnectionLimits::default()
    }
}

/// The first whole second from now at which a connection is overdue, and why.
fn first_overdue(connection: &Connection, limits: &ConnectionLimits) -> Option<(u64, Overdue)> {
    let now_ms = connection.now_ms();
    (0..1000).find_map(|second| Some((second, connection.overdue(now_ms + second * 1000, limits)?)))
}

#[tokio::test]
async fn each_phase_has_its_time() {
    let connections = Connections::new(limits());
    let limits = &connections.limits;
    let check = |what: &str, connection: &Connection, want: Option<(u64, Overdue)>| {
        assert_eq!(first_overdue(connection, limits), want, "{what}");
    };
    let accepted = connections.accept();
    check("a handshake", &accepted, Some((10, Overdue::Handshake)));
    accepted.opened(false);
    check("no request", &accepted, Some((32, Overdue::Head)));
    let request = RequestGuard::begin(accepted.clone());
    check("a request in progress", &accepted, None);
    drop(request);
    check("idle", &accepted, Some((90, Overdue::Idle)));
    accepted.head_began();
    check("a head that does not end", &accepted, Some((32, Overdue::Head)));
    let mut request = RequestGuard::begin(accepted.clone());
    accepted.blocked(true);
    check("a client that does not read", &accepted, Some((30, Overdue::Stalled)));
    request.set_long();
    check(
        "a client that pauses a stream",
        &accepted,
        Some((300, Overdue::Stalled)),
    );
    accepted.blocked(false);
    check("a stream", &accepted, None);
    drop(request);
    accepted.left_http();
    check("another protocol", &accepted, None);
    accepted.blocked(true);
    check("another protocol that stalls", &accepted, Some((300, Overdue::Stalled)));

    let h2 = connections.accept();
    h2.opened(true);
    drop(RequestGuard::begin(h2.clone()));
    h2.head_began();
    check("HTTP/2 frames without a request", &h2, Some((90, Overdue::Idle)));
    h2.retire();
    check("a client that does not go", &h2, Some((5, Overdue::Retired)));
}

#[tokio::test]
async fn responses_that_nobody_takes_are_noticed() {
    let connections = Connections::new(limits());
    let connection = connections.accept();
    connection.opened(true);
    let reply = |is_long: bool, body: axum::body::Body| {
        response::metered(
            crate::answer::raw(200, "text/plain", body),
            RequestGuard::begin(connection.clone()),
            None,
            is_long,
        )
    };
    for (is_long, stalls_s) in [(false, 30), (true, 300)] {
        let mut body = reply(is_long, vec![b'x'; 1 << 20].into()).into_body();
        let overdue = || first_overdue(&connection, &connections.limits);
        // Never asked for, asked for and held, taken in part: all the same.
        assert_eq!(overdue(), Some((stalls_s, Overdue::Stalled)));
        let mut take = || {
            let mut held = Vec::new();
            while let Some(Some(Ok(frame))) = body.frame().now_or_never() {
                let bytes = frame.into_data().expect("data");
                assert!(bytes.len() <= 64 << 10);
                held.push(bytes);
            }
            held
        };
        let held = take();
        assert_eq!(held.len(), 8, "half a MiB is handed out ahead");
        assert_eq!(overdue(), Some((stalls_s, Overdue::Stalled)));
        drop(held);
        let mut held = take();
        assert_eq!(held.len(), 8);
        drop(body);
        held.truncate(1);
        assert_eq!(overdue(), Some((stalls_s, Overdue::Stalled)), "a piece is held");
        drop(held);
        assert_eq!(overdue(), Some((90, Overdue::Idle)));
    }
    // A stream whose source has nothing to say waits for the server.
    let silent = axum::body::Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, axum::Error>>());
    let mut body = reply(true, silent).into_body();
    assert!(body.frame().now_or_never().is_none());
    assert_eq!(first_overdue(&connection, &connections.limits), None);
}

#[tokio::test]
async fn nobody_takes_all_places() {
    let connections = Connections::new(limits());
    let open = |user: Option<&str>| {
        let connection = connections.accept();
        connection.opened(true);
        if let Some(user) = user {
            connection.belongs_to(user, false);
        }
        connection
    };
    let alive = |all: &[Arc<Connection>]| all.iter().filter(|c| !c.kill.is_cancelled()).count();
    let ann = [open(Some("ann"))];
    // Without credentials: the oldest make room, and nobody else does.
    let unknown: Vec<_> = (0..100).map(|_| open(None)).collect();
    assert_eq!((alive(&unknown), alive(&ann)), (10, 1));
    assert!(!unknown[99].kill.is_cancelled() && unknown[0].kill.is_cancelled());
    let bob = [open(Some("bob"))];
    assert_eq!((alive(&ann), alive(&bob)), (1, 1));
    // One user: idle ones make room, busy ones do not.
    let eve: Vec<_> = (0..100).map(|_| open(Some("eve"))).collect();
    assert_eq!((alive(&eve), alive(&ann), alive(&bob)), (5, 1, 1));
    let busy: Vec<_> = eve[95..].iter().map(|c| RequestGuard::begin(c.clone())).collect();
    let more = connections.accept();
    assert!(!more.belongs_to("eve", false));
    drop(busy);
    assert!(more.belongs_to("eve", false));
    assert_eq!((alive(&eve), alive(&ann), alive(&bob)), (4, 1, 1));
    // All places taken: one of whoever has the most goes.
    let many: Vec<_> = ["a", "b", "c", "d"]
        .iter()
        .flat_map(|user| (0..5).map(move |_| open(Some(user))))
        .collect();
    assert!(connections.counts().0 <= 20);
    assert_eq!((alive(&ann), alive(&bob)), (1, 1));
    for connection in ann
        .iter()
        .chain(&bob)
        .chain(&eve)
        .chain(&unknown)
        .chain(&many)
        .chain([&more])
    {
        connection.closed();
    }
    assert_eq!(connections.counts().0, 0);
    let places = connections.places();
    assert!(places.unproven.is_empty() && places.users.is_empty());
}
