//! How far the host is told of: what is to be asked or written next, and what an answer makes of that. Nothing is sent here.

use serde_json::Value;

use super::labels::{self, Labels};
use crate::api::{Answer, NodeSeen};

/// What is to be told. `None` where that is switched off, or not known yet.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Wanted {
    /// The labels of the host's Node.
    pub(super) labels: Option<Labels>,
    /// The host's `NodeResourceTopology`, without its metadata.
    pub(super) topology: Option<Value>,
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Look at the host's Node.
    Node,
    /// Label it, if it is still the one of this uid.
    Label { uid: String, labels: Labels },
    /// Look whether there are `NodeResourceTopology` objects.
    Kind,
    /// Write the host's. It ends with the Node of this uid.
    Topology { owner: Option<String>, object: Value },
}

impl Step {
    /// What it is about, as the metrics call it.
    pub(super) fn about(&self) -> &'static str {
        match self {
            Self::Node | Self::Label { .. } => "labels",
            Self::Kind | Self::Topology { .. } => "topology",
        }
    }

    /// Whether it writes.
    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::Label { .. } | Self::Topology { .. })
    }

    /// The rule that allows it.
    fn rule(&self) -> &'static str {
        match self {
            Self::Node => "apiGroups: [\"\"], resources: [nodes], verbs: [get]",
            Self::Label { .. } => "apiGroups: [\"\"], resources: [nodes], verbs: [patch]",
            Self::Kind => "nonResourceURLs: [/apis/*], verbs: [get]",
            Self::Topology { .. } => {
                "apiGroups: [topology.node.k8s.io], resources: [noderesourcetopologies], verbs: [create, patch]"
            }
        }
    }
}

/// How far it is. A new one asks for everything again.
#[derive(Debug, Default)]
pub(super) struct Progress {
    node: Look<NodeSeen>,
    labels: Part<Labels>,
    kind: Look<()>,
    topology: Part<Value>,
}

/// Something that has to be looked at first.
#[derive(Debug, Default, PartialEq)]
enum Look<T> {
    #[default]
    Unknown,
    Seen(T),
    /// It may not be looked at.
    Hidden,
}

/// Something that is written.
#[derive(Debug)]
struct Part<T> {
    /// Whether it is of no use to go on.
    closed: bool,
    /// What was written last.
    told: Option<T>,
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self { closed: false, told: None }
    }
}

impl<T: PartialEq + Clone> Part<T> {
    fn open<'a>(&self, wanted: Option<&'a T>) -> Option<&'a T> {
        wanted.filter(|wanted| !self.closed && self.told.as_ref() != Some(*wanted))
    }
}

impl Progress {
    /// The next request, where one is needed.
    pub(super) fn next(&self, wanted: &Wanted) -> Option<Step> {
        let labels = self.labels.open(wanted.labels.as_ref());
        let topology = self.topology.open(wanted.topology.as_ref());
        if self.node == Look::Unknown {
            return labels.map(|_| ()).or(topology.map(|_| ())).map(|()| Step::Node);
        }
        if let (Look::Seen(node), Some(labels)) = (&self.node, labels)
            && !(self.labels.told.is_none() && labels::are_there(labels, &node.labels))
        {
            return Some(Step::Label { uid: node.uid.clone(), labels: labels.clone() });
        }
        let object = topology?.clone();
        if self.kind == Look::Unknown {
            return Some(Step::Kind);
        }
        let owner = if let Look::Seen(node) = &self.node { Some(node.uid.clone()) } else { None };
        Some(Step::Topology { owner, object })
    }

    /// The Node was looked at.
    pub(super) fn saw(&mut self, node: NodeSeen) {
        self.node = Look::Seen(node);
    }

    /// What the answer to a step makes of it, and what is to be said. An answer that is to come later changes nothing.
    pub(super) fn answered(&mut self, step: &Step, answer: &Answer, host: &str) -> Option<String> {
        match (step, answer) {
            (_, Answer::Later { .. }) | (Step::Node, Answer::Done) => return None,
            (Step::Label { labels, .. }, Answer::Done) => self.labels.told = Some(labels.clone()),
            (Step::Kind, Answer::Done) => self.kind = Look::Seen(()),
            (Step::Topology { object, .. }, Answer::Done) => self.topology.told = Some(object.clone()),
            (Step::Node, answer) => {
                // What the host has can be told without its Node, where there is one.
                (self.node, self.labels.closed) = (Look::Hidden, true);
                self.topology.closed |= *answer == Answer::Gone;
            }
            (Step::Label { .. }, _) => self.labels.closed = true,
            (Step::Kind | Step::Topology { .. }, _) => self.topology.closed = true,
        }
        let what = if step.about() == "labels" { "labels for Node" } else { "NodeResourceTopology" };
        match (step, answer) {
            (Step::Node, Answer::Gone) => Some(format!(
                "there is no Node {host}, and nothing is told of it; --host-name or $NODE_NAME says what this host is called"
            )),
            (Step::Topology { .. }, Answer::Conflict(why)) => {
                Some(format!("NodeResourceTopology {host} is another's, and left alone: {why}"))
            }
            (_, Answer::Forbidden(why)) => {
                Some(format!("no {what} {host}, a rule with {} is missing: {why}", step.rule()))
            }
            (_, Answer::Refused(why)) => Some(format!("no {what} {host}, the API server refuses it: {why}")),
            // There are no such objects here, or the Node is another one by now.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
