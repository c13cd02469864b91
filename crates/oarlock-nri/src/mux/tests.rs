use proptest::prelude::*;

use super::*;

/// All that comes out of a socket's bytes, read in pieces of these lengths, per connection.
fn demultiplexed(bytes: &[u8], lengths: &[usize]) -> Vec<(u32, Vec<u8>)> {
    let mut demux = Demux::default();
    let mut read = BytesMut::new();
    let mut streams: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut rest = bytes;
    for length in lengths.iter().copied().chain([usize::MAX]) {
        let (now, later) = rest.split_at(length.min(rest.len()));
        rest = later;
        read.extend_from_slice(now);
        while let Some((connection, piece)) = demux.next(&mut read).unwrap() {
            match streams.iter_mut().find(|(id, _)| *id == connection) {
                Some((_, stream)) => stream.extend_from_slice(&piece),
                None => streams.push((connection, piece.to_vec())),
            }
        }
    }
    assert!(read.is_empty() && demux.left == 0, "{} bytes are left", read.len());
    streams.sort_unstable();
    streams
}

/// A frame as any peer may send it.
fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    [&connection.to_be_bytes()[..], &(payload.len() as u32).to_be_bytes(), payload].concat()
}

proptest! {
    #[test]
    fn however_the_bytes_arrive_each_connection_has_its_own_stream(
        sent in prop::collection::vec((1_u32..5, prop::collection::vec(any::<u8>(), 0..50)), 0..20),
        lengths in prop::collection::vec(0_usize..30, 0..100),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(|(connection, payload)| frame(*connection, payload)).collect();
        let mut expected: Vec<(u32, Vec<u8>)> = Vec::new();
        for connection in 1..5 {
            let of_it = sent.iter().filter(|(id, _)| *id == connection);
            let stream: Vec<u8> = of_it.flat_map(|(_, payload)| payload.clone()).collect();
            if !stream.is_empty() {
                expected.push((connection, stream));
            }
        }
        prop_assert_eq!(demultiplexed(&bytes, &lengths), expected);
    }

    #[test]
    fn no_frame_that_is_sent_is_longer_than_4096_bytes_and_nothing_is_lost(
        length in prop_oneof![0_usize..3, 4090_usize..4100, 8180_usize..8200, 0_usize..100_000],
    ) {
        let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let framed = frames(RUNTIME, &bytes);
        let mut rest = &framed[..];
        while !rest.is_empty() {
            prop_assert_eq!(rest.get_u32(), RUNTIME);
            let length = rest.get_u32() as usize;
            prop_assert!((1..=4096).contains(&length), "a frame of {}", length);
            rest.advance(length);
        }
        let expected = if length == 0 { vec![] } else { vec![(RUNTIME, bytes)] };
        prop_assert_eq!(demultiplexed(&framed, &[]), expected);
    }
}

#[test]
fn a_frame_may_be_as_long_as_the_longest_message_with_its_header_and_no_longer() {
    let mut demux = Demux::default();
    let mut read = BytesMut::from(&[0, 0, 0, 1, 0, 0x40, 0, 10, 7][..]);
    assert_eq!(demux.next(&mut read), Ok(Some((1, Bytes::from_static(&[7])))));
    assert_eq!(demux.next(&mut read), Ok(None));
    let mut read = BytesMut::from(&[0, 0, 0, 1, 0, 0x40, 0, 11][..]);
    assert_eq!(Demux::default().next(&mut read), Err(WireError::Frame { length: (4 << 20) + 11 }));
}
