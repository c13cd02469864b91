use super::*;

#[test]
fn null_is_refused_wherever_a_caller_can_pass_it() {
    // SAFETY: null is what these functions must bear.
    unsafe {
        assert_eq!(put::<c_uint>(ptr::null_mut(), 1), Err(INVALID_ARGUMENT));
        assert_eq!(put_text(ptr::null_mut(), 9, "text"), Err(INVALID_ARGUMENT));
        assert_eq!(put_mask(ptr::null_mut(), 1, 0..4), Err(INVALID_ARGUMENT));
        assert_eq!(take_text(ptr::null()), Err(INVALID_ARGUMENT));
    }
}

#[test]
fn a_text_is_written_with_its_nul_or_not_at_all() {
    let mut place: [c_char; 6] = [7; 6];
    // SAFETY: the place is at least as long as said.
    unsafe {
        assert_eq!(put_text(place.as_mut_ptr(), 4, "text"), Err(INSUFFICIENT_SIZE));
        assert_eq!(place, [7; 6]);
        assert_eq!(put_text(place.as_mut_ptr(), 5, "text"), Ok(()));
        assert_eq!(take_text(place.as_ptr()), Ok("text"));
    }
    assert_eq!(place[5], 7);
}

#[test]
fn a_mask_fills_exactly_the_callers_words() {
    let mut place: [c_ulong; 3] = [7; 3];
    // SAFETY: the place is longer than said.
    let asked = unsafe { put_mask(place.as_mut_ptr(), 2, [0, 5, 64, 128].into_iter()) };
    assert_eq!((asked, place), (Ok(()), [0b10_0001, 1, 7]));
}

#[test]
fn a_panic_is_an_unknown_error_and_the_next_call_works() {
    assert_eq!(finish(|_| panic!("on purpose")), UNKNOWN);
    assert_eq!(finish(|_| Ok(())), SUCCESS);
}

#[test]
fn addresses_have_eight_domain_digits_and_the_old_form_four() {
    let info = pci_info(PciAddress { domain: 0x1f, bus: 0xab, device: 3, function: 0 }, GPU_ID);
    // SAFETY: both fields are longer than their texts, and filled up with NULs.
    let (new, old) = unsafe { (take_text(info.busId.as_ptr()), take_text(info.busIdLegacy.as_ptr())) };
    assert_eq!((new, old), (Ok("0000001F:AB:03.0"), Ok("001F:AB:03.0")));
}
