//! What plugins change, and how two of them get along.

use oarlock_nri::proto::{
    CdiDevice, ContainerAdjustment, CreateContainerResponse, Hook, Hooks, KeyValue, LinuxContainerAdjustment,
    LinuxMemoryPolicy, Mount, MpolFlag, MpolMode, PosixRlimit,
};
use oarlock_testkit::runtime::RuntimeOptions;

use crate::plugin::{Behaviour, Host, TestPlugin, container, cpus, cpus_of, placed, pod, served, update};

fn adjusted(adjust: ContainerAdjustment) -> CreateContainerResponse {
    CreateContainerResponse { adjust: Some(adjust), ..CreateContainerResponse::default() }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_owned() }
}

/// One of everything.
fn everything() -> ContainerAdjustment {
    let mut adjust = placed("8-11", "1").adjust.unwrap();
    let policy = LinuxMemoryPolicy {
        mode: MpolMode::MpolPreferredMany.into(),
        nodes: "0-1".to_owned(),
        flags: vec![MpolFlag::MpolFStaticNodes.into()],
    };
    let linux = LinuxContainerAdjustment { memory_policy: Some(policy), ..adjust.linux.unwrap() };
    adjust.linux = Some(linux);
    adjust.env = vec![variable("OARLOCK_RANKS", "8")];
    adjust.annotations = [("oarlock.dev/placement".to_owned(), "x".to_owned())].into();
    adjust.mounts = vec![Mount { destination: "/run/x".to_owned(), ..Mount::default() }];
    adjust.cdi_devices = vec![CdiDevice { name: "oarlock.dev/gpu=0".to_owned() }];
    adjust.rlimits = vec![PosixRlimit { r#type: "RLIMIT_MEMLOCK".to_owned(), hard: 2, soft: 1 }];
    adjust.hooks =
        Some(Hooks { poststart: vec![Hook { path: "/bin/x".to_owned(), ..Hook::default() }], ..Hooks::default() });
    adjust.args = vec!["launcher".to_owned(), "train".to_owned()];
    adjust
}

#[tokio::test]
async fn an_adjustment_reaches_the_runtime_whole() {
    let host = Host::new();
    let create = Box::new(|_: &_| Ok(adjusted(everything())));
    let (runtime, plugin) =
        served(&host, RuntimeOptions::default(), Behaviour { create, ..Behaviour::default() }).await;
    runtime.run_pod(&pod("p")).await.unwrap();
    assert_eq!(runtime.create_container(&container("p", "c")).await, Ok(everything()));
    let made = runtime.container("c").await.unwrap();
    assert_eq!(cpus_of(&made), "8-11");
    assert_eq!(made.env, ["OARLOCK_RANKS=8", "PATH=/bin"]);
    assert!(plugin.told().calls.contains(&"validate 8-11".to_owned()), "{:?}", plugin.told().calls);
}

#[tokio::test]
async fn an_error_fails_the_creation_with_its_words_and_those_of_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("no room for 8 ranks")]
    struct Refusal(#[source] std::num::ParseIntError);

    let host = Host::new();
    let create = Box::new(|_: &_| Err(Refusal("x".parse::<u8>().unwrap_err()).into()));
    let (runtime, plugin) =
        served(&host, RuntimeOptions::default(), Behaviour { create, ..Behaviour::default() }).await;
    runtime.run_pod(&pod("p")).await.unwrap();
    let why = runtime.create_container(&container("p", "c")).await.unwrap_err();
    assert_eq!(why, "plugin 10-test: no room for 8 ranks: invalid digit found in string");
    assert_eq!(runtime.view().plugins, ["10-test"], "it stays in service");
    let calls = plugin.told().calls;
    assert_eq!(calls[calls.len() - 2..], ["stop p/c", "remove p/c"], "what it noted can be dropped");
    assert_eq!(runtime.container("c").await, None);
}

#[tokio::test]
async fn two_plugins_that_set_different_things_get_along() {
    let host = Host::new();
    let runtime = host.runtime();
    let first = TestPlugin::new(Behaviour { create: Box::new(|_| Ok(placed("8-11", ""))), ..Behaviour::default() });
    // The second divides what the first has left.
    let divide = |container: &oarlock_nri::proto::Container| {
        assert_eq!(cpus_of(container), "8-11", "what the first has set");
        let mut adjust = placed("", "1").adjust.unwrap();
        adjust.env = vec![variable("-PATH", ""), variable("RANK_CPUS", "8-9;10-11")];
        Ok(adjusted(adjust))
    };
    let second = TestPlugin::new(Behaviour { create: Box::new(divide), ..Behaviour::default() });
    host.plug("20", "second", &second);
    host.plug("10", "first", &first);
    runtime.until_plugins(2).await;
    runtime.run_pod(&pod("p")).await.unwrap();
    let adjust = runtime.create_container(&container("p", "c")).await.unwrap();
    let cpu = adjust.linux.unwrap().resources.unwrap().cpu.unwrap();
    assert_eq!((cpu.cpus.as_str(), cpu.mems.as_str()), ("8-11", "1"));
    assert_eq!(runtime.container("c").await.unwrap().env, ["RANK_CPUS=8-9;10-11"]);
}

#[tokio::test]
async fn two_plugins_that_set_the_same_fail_the_creation() {
    for (set, field) in
        [(placed("4-7", ""), "CPU set"), (placed("", "1"), "memory set"), (adjusted(everything()), "env OARLOCK_RANKS")]
    {
        let host = Host::new();
        let runtime = host.runtime();
        let (one, other) = (set.clone(), set);
        let first = TestPlugin::new(Behaviour { create: Box::new(move |_| Ok(one.clone())), ..Behaviour::default() });
        let second =
            TestPlugin::new(Behaviour { create: Box::new(move |_| Ok(other.clone())), ..Behaviour::default() });
        host.plug("10", "first", &first);
        host.plug("20", "second", &second);
        runtime.until_plugins(2).await;
        runtime.run_pod(&pod("p")).await.unwrap();
        let why = runtime.create_container(&container("p", "c")).await.unwrap_err();
        assert_eq!(why, format!("plugins 10-first and 20-second both set {field} of c"));
    }
}

#[tokio::test]
async fn a_creation_may_change_other_containers_but_not_its_own() {
    let host = Host::new();
    let create = |container: &oarlock_nri::proto::Container| {
        let update = if container.id == "self" { vec![update("self", "1")] } else { vec![update("c0", "12-15")] };
        Ok(CreateContainerResponse { update, ..CreateContainerResponse::default() })
    };
    let behaviour = Behaviour { create: Box::new(create), ..Behaviour::default() };
    let options =
        RuntimeOptions { pods: vec![pod("p")], containers: vec![container("p", "c0")], ..RuntimeOptions::default() };
    let (runtime, _plugin) = served(&host, options, behaviour).await;
    runtime.create_container(&container("p", "c1")).await.unwrap();
    assert_eq!(cpus_of(&runtime.container("c0").await.unwrap()), "12-15");
    let why = runtime.create_container(&container("p", "self")).await.unwrap_err();
    assert_eq!(why, "plugin 10-test updates self, which is being created");
}

#[tokio::test]
async fn the_answer_to_an_update_takes_the_place_of_what_was_asked_for() {
    let host = Host::new();
    let behaviour = Behaviour {
        update: Box::new(|container| vec![update(&container.id, "2"), update("c1", "3")]),
        stop: Box::new(|container| vec![update(if container.id == "c0" { "c1" } else { "c0" }, "0-7")]),
        ..Behaviour::default()
    };
    let containers = vec![container("p", "c0"), container("p", "c1")];
    let options = RuntimeOptions { pods: vec![pod("p")], containers, ..RuntimeOptions::default() };
    let (runtime, plugin) = served(&host, options, behaviour).await;
    let updated = runtime.update_container("c0", &cpus("0-3")).await.unwrap();
    assert_eq!(cpus_of(&updated), "2", "within what kubelet gave");
    assert_eq!(cpus_of(&runtime.container("c1").await.unwrap()), "3");
    assert!(plugin.told().calls.contains(&"update p/c0 to 0-3".to_owned()), "{:?}", plugin.told().calls);
    runtime.remove_container("c0").await.unwrap();
    assert_eq!(cpus_of(&runtime.container("c1").await.unwrap()), "0-7", "what has become free");
}

#[tokio::test]
async fn a_validator_may_reject_what_others_changed() {
    let host = Host::new();
    let behaviour = Behaviour {
        create: Box::new(|_| Ok(placed("8-11", ""))),
        reject: Some("those are taken"),
        ..Behaviour::default()
    };
    let (runtime, _plugin) = served(&host, RuntimeOptions::default(), behaviour).await;
    runtime.run_pod(&pod("p")).await.unwrap();
    let why = runtime.create_container(&container("p", "c")).await.unwrap_err();
    assert_eq!(why, "a validator rejects the adjustment: those are taken");
}
