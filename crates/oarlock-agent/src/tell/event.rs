//! A notice as an event on its pod (`events.k8s.io/v1`).

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use oarlock_kernel::ledger::Pod;

use super::Notice;

/// Who reports; a qualified name, as the API server asks for.
const CONTROLLER: &str = "oarlock-agent";
/// What was tried.
const ACTION: &str = "Bind";
/// The API server takes no longer note, in bytes.
const MOST_NOTE: usize = 1024;
/// A name has at most 253 bytes; the time after it takes 17.
const MOST_POD: usize = 230;

/// The event that says this about a pod. Its name holds the time, so that it is the same event however often it is sent.
pub(super) fn event(notice: &Notice, at: Timestamp, host: &str) -> Event {
    let Notice { pod, container, what, words } = notice;
    let name = cut(&pod.name, MOST_POD).trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", at.as_nanosecond())),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(at)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(host.to_owned()),
        action: Some(ACTION.to_owned()),
        reason: Some(what.reason().to_owned()),
        type_: Some(if what.is_good() { "Normal" } else { "Warning" }.to_owned()),
        note: Some(shortened(format!("{container}: {words}"))),
        regarding: Some(reference(pod)),
        ..Event::default()
    }
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

fn shortened(note: String) -> String {
    if note.len() <= MOST_NOTE { note } else { format!("{}…", cut(&note, MOST_NOTE - '…'.len_utf8())) }
}

/// As many bytes of a text, or a few less where that would split a character.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::super::What;
    use super::*;

    fn notice(pod: &str, words: &str) -> Notice {
        let pod = Pod { namespace: "ml".to_owned(), name: pod.to_owned(), uid: "uid-7".to_owned() };
        Notice { pod, container: "main".to_owned(), what: What::RanksUnbound, words: words.to_owned() }
    }

    #[test]
    fn an_event_is_about_the_pod_and_says_who_says_what_of_which_container() {
        let at: Timestamp = "2026-01-02T03:04:05.000006Z".parse().unwrap();
        let event = event(&notice("job-worker-0", "rank 3 is not held"), at, "gpu-7");
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["metadata"]["namespace"], "ml");
        assert_eq!(json["metadata"]["name"], format!("job-worker-0.{:x}", at.as_nanosecond()));
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": "ml", "name": "job-worker-0", "uid": "uid-7",
        });
        assert_eq!(json["regarding"], pod);
        assert_eq!(json["eventTime"], "2026-01-02T03:04:05.000006Z");
        for (key, value) in [
            ("type", "Warning"),
            ("reason", "RanksUnbound"),
            ("action", "Bind"),
            ("note", "main: rank 3 is not held"),
            ("reportingController", "oarlock-agent"),
            ("reportingInstance", "gpu-7"),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
    }

    #[test]
    fn a_long_note_and_a_long_name_are_cut_to_what_the_server_takes() {
        // A character of two bytes lies over each limit.
        let note = event(&notice("job", &"ü".repeat(700)), Timestamp::UNIX_EPOCH, "h").note.unwrap();
        assert!(note.len() <= 1024 && note.len() > 1000 && note.ends_with("ü…"), "{} {note}", note.len());
        let pod = format!("{}-.{}", "a".repeat(228), "b".repeat(23));
        let name = event(&notice(&pod, ""), Timestamp::now(), "h").metadata.name.unwrap();
        assert!(name.len() <= 253 && name.starts_with(&format!("{}.", "a".repeat(228))), "{name}");
    }
}
