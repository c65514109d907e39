//! Connections over a long way: which one carries the next request, and when another is dialled before it is needed.

/// One connection to a destination that takes new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rider {
    /// Requests under way on it.
    pub active: usize,
    /// It has carried little of late.
    pub light: bool,
    /// It lives on for long enough not to need a successor yet.
    pub young: bool,
}

/// How connections to a destination are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RiderBounds {
    /// How many there may be, those that are being dialled included.
    pub connections: usize,
    /// Dials at once.
    pub dials: usize,
    /// Requests on one connection while it counts as unused.
    pub alone: usize,
    /// Brief requests that may share a connection, the first request included.
    pub brief: usize,
    /// How many dials brief requests begin while there is no connection.
    pub first: usize,
    /// What a connection never carries more of; `None`: one is shared when no other may be dialled.
    pub at_once: Option<usize>,
}

/// Who asks for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rides {
    /// It is over soon: it may share a connection.
    pub brief: bool,
    /// A connection is being dialled for it.
    pub dialled: bool,
    /// It has waited for the dials of others for so long that they may lead nowhere.
    pub impatient: bool,
}

/// What is done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RiderStep {
    /// It takes this connection, as an index; `ahead`: another one is dialled meanwhile, for those that follow.
    Use {
        /// Into the list of connections.
        index: usize,
        /// Whether to dial.
        ahead: bool,
    },
    /// A connection is dialled for it; it takes whichever is ready first.
    Dial,
    /// It takes whichever connection is ready first.
    Wait,
}

/// The step for one request. An unused connection is taken first, of those a light one, of those a young one, so that the
/// others may end. A brief request that finds none shares a light one; every other dials. Whenever no unused light one that
/// lives on is left another is dialled ahead (not while `resting`, because dials have just failed), at most one more than
/// half of those that there are.
pub fn ride(riders: &[Rider], dialling: usize, resting: bool, who: Rides, bounds: &RiderBounds) -> RiderStep {
    let unused = riders.iter().enumerate().filter(|(_, it)| it.active < bounds.alone);
    let unused = unused.min_by_key(|(_, it)| (!it.light, !it.young, it.active));
    let shared = || {
        let shared = riders.iter().enumerate().filter(|(_, it)| who.brief && it.light && it.active < bounds.brief);
        shared.min_by_key(|(_, it)| it.active)
    };
    let room = riders.len() + dialling < bounds.connections;
    if let Some((index, _)) = unused.or_else(shared) {
        let ahead = lacks_unused(riders, Some(index), bounds) && may_dial_ahead(riders, dialling, resting, bounds);
        return RiderStep::Use { index, ahead };
    }
    if who.dialled {
        return RiderStep::Wait;
    }
    if room && dialling < bounds.dials {
        let enough = if riders.is_empty() { bounds.first } else { bounds.first.max(riders.len()) };
        return if who.brief && !who.impatient && dialling >= enough { RiderStep::Wait } else { RiderStep::Dial };
    }
    let least = riders.iter().enumerate().min_by_key(|(_, it)| it.active);
    match least.filter(|(_, it)| bounds.at_once.is_none_or(|most| it.active < most)) {
        Some((index, _)) => RiderStep::Use { index, ahead: false },
        // When all are full by the destination's own limit, the number of connections is none.
        None if dialling < bounds.dials => RiderStep::Dial,
        None => RiderStep::Wait,
    }
}

/// Whether to dial before a connection is needed: no unused light one that lives on is left, and dials have not just failed.
pub fn dials_ahead(riders: &[Rider], dialling: usize, resting: bool, bounds: &RiderBounds) -> bool {
    lacks_unused(riders, None, bounds) && may_dial_ahead(riders, dialling, resting, bounds)
}

/// Whether no unused light one that lives on is left when one more request has been put on `taken`.
fn lacks_unused(riders: &[Rider], taken: Option<usize>, bounds: &RiderBounds) -> bool {
    let active = |index: usize, it: &Rider| it.active + usize::from(taken == Some(index));
    !riders.iter().enumerate().any(|(index, it)| active(index, it) < bounds.alone && it.light && it.young)
}

fn may_dial_ahead(riders: &[Rider], dialling: usize, resting: bool, bounds: &RiderBounds) -> bool {
    !resting && riders.len() + dialling < bounds.connections && dialling <= riders.len() / 2
}

/// What the head of a request says of how long it takes.
#[derive(Debug, Clone, Copy)]
pub struct BriefHead<'a> {
    /// The method.
    pub method: &'a str,
    /// `content-length`.
    pub content_length: Option<&'a [u8]>,
    /// `content-type`.
    pub content_type: Option<&'a [u8]>,
    /// `accept`.
    pub accept: Option<&'a [u8]>,
}

/// Whether a request is likely over soon: it asks for no stream, and its body is one that would be kept for a retry.
pub fn is_brief(head: &BriefHead<'_>) -> bool {
    let length = head.content_length.map(|text| std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()));
    let small = match length {
        Some(length) => length.is_some_and(|length: usize| length <= crate::RETRY_BODY_MAX),
        None => matches!(head.method, "GET" | "HEAD" | "OPTIONS"),
    };
    let streams = |text: &[u8]| text.starts_with(b"application/grpc") || text.starts_with(b"text/event-stream");
    small && !head.content_type.is_some_and(streams) && !head.accept.is_some_and(streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: RiderBounds = RiderBounds { connections: 4, dials: 4, alone: 1, brief: 3, first: 2, at_once: None };
    const BRIEF: Rides = Rides { brief: true, dialled: false, impatient: false };
    const LONG: Rides = Rides { brief: false, ..BRIEF };
    const WAITS: Rides = Rides { dialled: true, ..BRIEF };
    const READY: RiderStep = RiderStep::Use { index: 0, ahead: false };
    const LAST: RiderStep = RiderStep::Use { index: 0, ahead: true };

    /// `l` light, `h` heavy, upper case if it is old; then requests under way.
    fn riders(text: &str) -> Vec<Rider> {
        let rider = |word: &str| {
            let (kind, active) = word.split_at(1);
            let light = kind.eq_ignore_ascii_case("l");
            Rider { active: active.parse().unwrap(), light, young: kind == kind.to_lowercase() }
        };
        text.split_whitespace().map(rider).collect()
    }

    #[track_caller]
    fn check(given: &str, dialling: usize, who: Rides, expect: RiderStep) {
        assert_eq!(ride(&riders(given), dialling, false, who, &BOUNDS), expect, "{given}, {dialling} dialled, {who:?}");
    }

    #[test]
    fn one_that_is_unused_is_always_left_or_on_its_way() {
        check("l0", 0, BRIEF, LAST);
        check("l0", 1, BRIEF, READY);
        check("l0 l0", 0, LONG, READY);
        check("l0 h0", 0, BRIEF, LAST);
        check("l0 L0", 0, BRIEF, LAST);
        check("l0 l1 l1 l1", 0, BRIEF, READY);
        assert_eq!(ride(&riders("l0"), 0, true, BRIEF, &BOUNDS), READY, "dials have just failed");
    }

    #[test]
    fn light_ones_are_taken_first_and_old_ones_last() {
        check("h0 l0 l0", 0, LONG, RiderStep::Use { index: 1, ahead: false });
        check("L0 l0", 0, BRIEF, RiderStep::Use { index: 1, ahead: true });
        check("h0 l1", 0, BRIEF, LAST);
    }

    #[test]
    fn brief_requests_share_and_long_ones_do_not() {
        check("l1", 0, BRIEF, LAST);
        check("l2 l1", 2, BRIEF, RiderStep::Use { index: 1, ahead: false });
        check("l1", 0, LONG, RiderStep::Dial);
        check("l3", 0, BRIEF, RiderStep::Dial);
        check("h1", 0, BRIEF, RiderStep::Dial);
    }

    #[test]
    fn a_burst_at_the_beginning_waits_for_few_dials() {
        check("", 0, BRIEF, RiderStep::Dial);
        check("", 1, BRIEF, RiderStep::Dial);
        check("", 2, BRIEF, RiderStep::Wait);
        check("", 2, LONG, RiderStep::Dial);
        check("", 2, Rides { impatient: true, ..BRIEF }, RiderStep::Dial);
        check("", 1, WAITS, RiderStep::Wait);
        check("l1", 1, WAITS, READY);
    }

    #[test]
    fn when_there_is_no_room_the_least_busy_is_shared_within_the_destinations_limit() {
        check("h4 h3 h4 h4", 0, LONG, RiderStep::Use { index: 1, ahead: false });
        let limited = RiderBounds { at_once: Some(3), ..BOUNDS };
        let step = ride(&riders("h3 h3 h3 h3"), 0, false, LONG, &limited);
        assert_eq!(step, RiderStep::Dial, "rather one more than the destination takes");
    }

    #[test]
    fn brief_is_what_has_a_small_body_and_asks_for_no_stream() {
        let head = BriefHead { method: "GET", content_length: None, content_type: None, accept: None };
        let post = BriefHead { method: "POST", content_length: Some(b"65536"), ..head };
        let cases = [
            ("a GET", head, true),
            ("a POST of unknown length", BriefHead { method: "POST", ..head }, false),
            ("a small POST", post, true),
            ("a large POST", BriefHead { content_length: Some(b"65537"), ..post }, false),
            ("no number", BriefHead { content_length: Some(b"many"), ..post }, false),
            ("gRPC", BriefHead { content_type: Some(b"application/grpc+proto"), ..post }, false),
            ("an event stream", BriefHead { accept: Some(b"text/event-stream"), ..head }, false),
        ];
        for (name, head, expected) in cases {
            assert_eq!(is_brief(&head), expected, "{name}");
        }
    }
}
