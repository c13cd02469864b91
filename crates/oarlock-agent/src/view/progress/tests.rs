use serde_json::json;

use super::*;

const HOST: &str = "gpu-7";

fn wanted(gpus: &str) -> Wanted {
    Wanted {
        labels: Some(Labels::from([("oarlock.dev/gpus", gpus.to_owned())])),
        topology: Some(json!({ "zones": gpus })),
    }
}

fn node(gpus: Option<&str>) -> NodeSeen {
    let labels = gpus.map(|gpus| ("oarlock.dev/gpus".to_owned(), gpus.to_owned()));
    NodeSeen { uid: "uid-7".to_owned(), labels: labels.into_iter().collect() }
}

/// All steps that are taken where the answer to each is this, with what is said.
fn walk(progress: &mut Progress, wanted: &Wanted, seen: &NodeSeen, answer: impl Fn(&Step) -> Answer) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..10 {
        let Some(step) = progress.next(wanted) else { return said };
        let answer = answer(&step);
        if step == Step::Node && answer == Answer::Done {
            progress.saw(seen.clone());
        }
        let words = progress.answered(&step, &answer, HOST);
        let name = format!("{step:?}");
        said.push(name.split([' ', '{']).next().unwrap().to_owned());
        said.extend(words);
    }
    panic!("it never ends: {said:?}");
}

fn done(_: &Step) -> Answer {
    Answer::Done
}

#[test]
fn a_node_is_seen_before_it_is_labelled_and_a_kind_before_an_object_of_it() {
    let mut progress = Progress::default();
    assert_eq!(walk(&mut progress, &wanted("8"), &node(None), done), ["Node", "Label", "Kind", "Topology"]);
    assert_eq!(progress.next(&wanted("8")), None);
    assert_eq!(walk(&mut progress, &wanted("7"), &node(None), done), ["Label", "Topology"]);
    // What is not known for a moment is not taken away.
    assert_eq!(progress.next(&Wanted::default()), None);
    assert_eq!(progress.next(&wanted("7")), None);
}

#[test]
fn labels_that_are_there_are_not_written_until_they_change() {
    let mut progress = Progress::default();
    let labels = |gpus| Wanted { topology: None, ..wanted(gpus) };
    assert_eq!(walk(&mut progress, &labels("8"), &node(Some("8")), done), ["Node"]);
    assert_eq!(walk(&mut progress, &labels("7"), &node(None), done), ["Label"]);
    assert_eq!(walk(&mut progress, &labels("8"), &node(None), done), ["Label"], "what was seen first is not there now");
}

#[test]
fn the_object_ends_with_its_node_and_does_without_where_that_is_not_shown() {
    let mut progress = Progress::default();
    let owner = |progress: &Progress| match progress.next(&wanted("7")) {
        Some(Step::Topology { owner, .. }) => owner,
        other => panic!("{other:?}"),
    };
    walk(&mut progress, &wanted("8"), &node(Some("8")), done);
    progress.labels.closed = true;
    assert_eq!(owner(&progress).as_deref(), Some("uid-7"));
    let mut progress = Progress::default();
    let hidden = |step: &Step| if *step == Step::Node { Answer::Forbidden("no".to_owned()) } else { Answer::Done };
    let said = walk(&mut progress, &wanted("8"), &node(None), hidden);
    assert_eq!((said[0].as_str(), &said[2..]), ("Node", &["Kind".to_owned(), "Topology".to_owned()][..]));
    assert_eq!(owner(&progress), None);
}

#[test]
fn each_answer_but_a_later_one_ends_the_asking() {
    let no = || "no".to_owned();
    for answer in [Answer::Gone, Answer::Conflict(no()), Answer::Forbidden(no()), Answer::Refused(no())] {
        let mut progress = Progress::default();
        let said = walk(&mut progress, &wanted("8"), &node(None), |_| answer.clone());
        let asked: Vec<&String> =
            said.iter().filter(|said| ["Node", "Label", "Kind", "Topology"].contains(&said.as_str())).collect();
        // Of a host that is no Node nothing else is asked.
        assert_eq!(asked.len(), if answer == Answer::Gone { 1 } else { 2 }, "{answer:?}: {said:?}");
        let mut progress = Progress::default();
        let said =
            walk(
                &mut progress,
                &wanted("8"),
                &node(None),
                |step| if step.writes() { answer.clone() } else { Answer::Done },
            );
        let words = said.iter().filter(|said| said.contains(HOST)).count();
        let expected = match answer {
            Answer::Gone => 0,
            Answer::Conflict(_) => 1,
            _ => 2,
        };
        assert_eq!(words, expected, "{answer:?}: {said:?}");
    }
    let mut progress = Progress::default();
    let later = Answer::Later { why: no(), after: None };
    assert_eq!(progress.answered(&Step::Node, &later, HOST), None);
    assert_eq!(progress.next(&wanted("8")), Some(Step::Node));
}

#[test]
fn what_another_owns_is_named() {
    let step = Step::Topology { owner: None, object: json!({}) };
    let said = Progress::default().answered(&step, &Answer::Conflict("conflict with \"nfd\"".to_owned()), HOST);
    assert_eq!(said.unwrap(), "NodeResourceTopology gpu-7 is another's, and left alone: conflict with \"nfd\"");
}
