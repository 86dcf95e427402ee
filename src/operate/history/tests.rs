use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn route(name: &str) -> Key {
    Key::of(SeriesKind::Route, &name.into())
}

fn figures(connections: u64) -> Figures {
    Figures { connections, active: 1, errors: 0 }
}

/// Ticks once a second for `seconds`; `reading` gets the second.
fn run(tracker: &mut Tracker, from: u64, seconds: u64, reading: impl Fn(u64) -> Vec<(Key, Figures)>) {
    let (began, at) = (tracker.began, SystemTime::UNIX_EPOCH);
    for second in from..from + seconds {
        let second_s = Duration::from_secs(second);
        tracker.tick(began + second_s, at + second_s, Troubles::default(), reading(second));
    }
}

fn tracker() -> Tracker {
    Tracker::new(Instant::now(), SystemTime::UNIX_EPOCH)
}

#[test]
fn a_step_is_ten_seconds_and_a_rate_one() {
    let mut tracker = tracker();
    run(&mut tracker, 1, 25, |second| vec![(Key::all(), figures(3 * second))]);
    let (ends, series) = tracker.series(|_| true);
    assert_eq!(ends, SystemTime::UNIX_EPOCH + Duration::from_secs(20));
    assert_eq!((&*series[0].connections, &*series[0].active), (&[30, 30][..], &[1, 1][..]));
    assert_eq!(tracker.rates(&Key::all()), (3.0, 0.0));
}

#[test]
fn a_history_is_fifteen_minutes_long_and_outlives_a_reload_that_was_a_mistake() {
    let mut tracker = tracker();
    let both = |second| vec![(Key::all(), figures(second)), (route("a"), figures(second))];
    run(&mut tracker, 1, 2000, both);
    run(&mut tracker, 2001, 100, |second| vec![(Key::all(), figures(second))]);
    run(&mut tracker, 2101, 10, both);
    let (_, series) = tracker.series(|key| key.kind == SeriesKind::Route);
    assert_eq!(series[0].connections.len(), 90);
    assert_eq!(series[0].connections[89 - 11], 10);
    run(&mut tracker, 2111, 1000, |second| vec![(Key::all(), figures(second))]);
    assert!(tracker.series(|key| key.kind == SeriesKind::Route).1.is_empty());
    assert_eq!(tracker.tracked.len(), 1, "what is gone is forgotten");
}

#[test]
fn so_many_have_a_history_and_the_idle_make_room() {
    let mut tracker = tracker();
    let many = |second: u64| {
        (0..3000).map(move |n| (route(&format!("r{n}")), Figures { connections: second.min(5), ..Figures::default() }))
    };
    run(&mut tracker, 1, 10, |second| many(second).collect());
    assert_eq!(tracker.series(|_| true).1.len(), MOST_RINGS);
    // 90 steps later all of them have been idle for long.
    run(&mut tracker, 11, 900, |second| many(second).collect());
    assert_eq!(tracker.series(|_| true).1.len(), 0);
    let late = |second: u64| many(5).chain([(route("late"), figures(second))]).collect();
    run(&mut tracker, 911, 10, late);
    assert_eq!(tracker.series(|_| true).1.len(), 1);
}

#[test]
fn what_was_counted_before_it_is_first_read_is_no_peak_and_a_counter_may_begin_again() {
    let mut tracker = tracker();
    let listener = Key::of(SeriesKind::Listener, &"l".into());
    run(&mut tracker, 1, 1, |_| vec![(Key::all(), figures(0))]);
    run(&mut tracker, 2, 1, |_| vec![(listener.clone(), figures(1000))]);
    assert_eq!(tracker.rates(&listener).0, 0.0);
    run(&mut tracker, 3, 1, |_| vec![(listener.clone(), figures(4))]);
    assert_eq!(tracker.rates(&listener).0, 4.0);
}

#[test]
fn an_episode_has_a_beginning_and_an_end() {
    let mut tracker = tracker();
    let dropped = |lines| Troubles { log_lines_dropped: lines, ..Troubles::default() };
    let (began, at) = (tracker.began, SystemTime::UNIX_EPOCH);
    let mut seconds = 0..;
    let mut tick = |tracker: &mut Tracker, lines: u64, times: usize| {
        for second in seconds.by_ref().take(times) {
            tracker.tick(began + second * SECOND, at + second * SECOND, dropped(lines), []);
        }
    };
    let of = |troubles: &Troubles| troubles.log_lines_dropped;
    tick(&mut tracker, 7, 400);
    let now = at + 400 * SECOND;
    assert_eq!(tracker.episode(dropped(7), now, of), None, "what was lost before counts no more");
    let found = tracker.episode(dropped(9), now, of).map(|episode| episode.count);
    assert_eq!(found, Some(2), "at once, not after the step");
    tick(&mut tracker, 9, 200);
    let episode = tracker.episode(dropped(9), now, of).expect("in the last five minutes");
    assert_eq!((episode.count, episode.since), (2, at + 399 * SECOND));
    tick(&mut tracker, 9, 200);
    assert_eq!(tracker.episode(dropped(9), now, of), None, "it is over");
}

#[test]
fn quantiles_are_of_the_last_minutes() {
    let mut tracker = tracker();
    let key = Key::backend(&"p".into(), &"b".into());
    run(&mut tracker, 1, 1, |_| vec![(key.clone(), figures(1))]);
    let began = tracker.began;
    let mut counts = [[0; BUCKETS]; 2];
    counts[0][20] = 100;
    tracker.keep_latencies(&key, counts, began);
    let of = |tracker: &Tracker, counts| {
        let mut sums = [[0; BUCKETS]; 2];
        tracker.add_latencies(&key, counts, &mut sums);
        quantiles(&sums[0])
    };
    assert_eq!(of(&tracker, counts).count, 100);
    tracker.keep_latencies(&key, counts, began + WINDOW);
    assert_eq!(of(&tracker, counts).count, 100);
    counts[0][10] = 10;
    tracker.keep_latencies(&key, counts, began + 2 * WINDOW);
    let now = of(&tracker, counts);
    assert_eq!(now.count, 10, "the hundred are over");
    let p99 = now.p99.expect("there are some");
    assert!(p99 <= upper_ms(10) && p99 > upper_ms(9), "{now:?}");
    assert_eq!(quantiles(&[0; BUCKETS]), Quantiles::default());
}

#[test]
fn a_state_has_a_beginning() {
    let mut states = StatesSince::default();
    let at = |seconds| SystemTime::UNIX_EPOCH + seconds * SECOND;
    assert_eq!(states.note([("a", 1), ("b", 1)], at(1)), [("a", None), ("b", None)]);
    assert_eq!(states.note([("a", 1), ("b", 2)], at(2)), [("b", Some(1))]);
    assert_eq!(states.note([("b", 2)], at(3)), []);
    assert_eq!((states.get(&"a"), states.get(&"b")), (None, Some(&StateSince { state: 2, since: at(2) })));
}
