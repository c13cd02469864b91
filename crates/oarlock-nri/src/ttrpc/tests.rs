use proptest::prelude::*;

use super::*;

/// All messages of a stream, read in pieces of these lengths.
fn decoded(bytes: &[u8], lengths: &[usize]) -> Vec<Incoming> {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    let mut rest = bytes;
    for length in lengths.iter().copied().chain([usize::MAX]) {
        let (now, later) = rest.split_at(length.min(rest.len()));
        rest = later;
        decoder.feed(Bytes::copy_from_slice(now));
        messages.extend(std::iter::from_fn(|| decoder.next()));
        assert!(decoder.held.len() <= HEADER + LONGEST_BODY, "{} bytes are held", decoder.held.len());
    }
    messages
}

fn header(length: u32, stream: u32, kind: u8) -> Vec<u8> {
    [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0]].concat()
}

proptest! {
    #[test]
    fn however_the_bytes_arrive_the_messages_are_the_same(
        bodies in prop::collection::vec((any::<u32>(), prop_oneof![Just(REQUEST), Just(RESPONSE)], prop::collection::vec(any::<u8>(), 0..40)), 0..12),
        lengths in prop::collection::vec(0_usize..25, 0..100),
    ) {
        let bytes: Vec<u8> = bodies.iter().flat_map(|(stream, kind, body)| [header(body.len() as u32, *stream, *kind), body.clone()].concat()).collect();
        let expected: Vec<Incoming> = bodies.into_iter().map(|(stream, kind, body)| Incoming { stream, kind, body: Ok(body.into()) }).collect();
        prop_assert_eq!(decoded(&bytes, &lengths), expected);
    }
}

#[test]
fn a_message_that_is_too_long_is_told_of_at_once_and_never_held() {
    let length = LONGEST_BODY + 1;
    let long = [header(length as u32, 5, REQUEST), vec![1; length], header(2, 7, REQUEST), vec![8, 9]].concat();
    let expected = vec![
        Incoming { stream: 5, kind: REQUEST, body: Err(length) },
        Incoming { stream: 7, kind: REQUEST, body: Ok(Bytes::from_static(&[8, 9])) },
    ];
    assert_eq!(decoded(&long, &[]), expected, "at once");
    assert_eq!(decoded(&long, &vec![4096; length / 4096]), expected, "in pieces");
    assert_eq!(decoded(&header(u32::MAX, 5, REQUEST), &[]).len(), 1, "with nothing after its header");
}

#[test]
fn a_message_of_the_greatest_length_comes_through() {
    let long = [header(LONGEST_BODY as u32, 5, RESPONSE), vec![1; LONGEST_BODY]].concat();
    let messages = decoded(&long, &vec![5000; 100]);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].body.as_ref().map(Bytes::len), Ok(LONGEST_BODY));
}

#[test]
fn the_memory_of_a_long_message_goes_with_the_message() {
    let mut decoder = Decoder::default();
    for piece in [header(LONGEST_BODY as u32, 5, RESPONSE), vec![1; LONGEST_BODY]] {
        decoder.feed(piece.into());
    }
    assert!(decoder.next().is_some());
    decoder.feed(header(2, 7, RESPONSE).into());
    assert!(decoder.held.capacity() < 1 << 16, "{} bytes", decoder.held.capacity());
}

#[test]
fn a_request_is_written_as_runtimes_read_it() {
    let body = Request { service: "s".into(), method: "m".into(), payload: Bytes::from_static(&[9]), timeout_nano: 3 };
    let expected = [
        0,
        0,
        0,
        11,
        0,
        0,
        0,
        7,
        REQUEST,
        REMOTE_CLOSED, // header
        0x0a,
        1,
        b's',
        0x12,
        1,
        b'm',
        0x1a,
        1,
        9,
        0x20,
        3,
    ];
    assert_eq!(&request(7, &body).unwrap()[..], expected);
}

#[test]
fn what_is_sent_fits_into_the_frames_that_a_runtime_keeps() {
    let body = |length| Request { payload: vec![0; length].into(), ..Request::default() };
    // The payload's tag and length take four bytes of it.
    let longest = request(1, &body(LONGEST_SENT - 4)).unwrap();
    assert_eq!(longest.len(), 1 << 20);
    assert_eq!(mux::frames(mux::RUNTIME, &longest).len(), (1 << 20) + 8 * 256);
    assert_eq!(request(1, &body(LONGEST_SENT - 3)), Err(TooLong(LONGEST_SENT + 1)));
}

#[test]
fn an_answer_that_is_too_long_becomes_an_error() {
    let bytes = response(3, Ok(Bytes::from(vec![0; LONGEST_SENT])));
    let [message] = &decoded(&bytes, &[])[..] else { panic!("one message") };
    let status = Response::decode(message.body.clone().unwrap()).unwrap().into_result().unwrap_err();
    assert_eq!((message.stream, message.kind, status.code), (3, RESPONSE, 8));
    assert_eq!(status.message, "an answer of 1048570 bytes: at most 1048566 are allowed");
}

#[test]
fn a_status_of_zero_is_success() {
    let response =
        Response { status: Some(Status { code: 0, message: "ok".into() }), payload: Bytes::from_static(&[1]) };
    assert_eq!(response.into_result(), Ok(Bytes::from_static(&[1])));
    assert_eq!(
        Response { status: Some(Status::unknown("no")), payload: Bytes::new() }.into_result(),
        Err(Status::unknown("no"))
    );
}
