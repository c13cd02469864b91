//! What happens to pods and containers reaches the plugin, however the runtime says it.

use oarlock_nri::Events;
use oarlock_nri::proto::Event;
use oarlock_testkit::runtime::RuntimeOptions;

use crate::plugin::{Behaviour, Host, container, cpus, pod, served};

/// Everything that can happen.
async fn everything(options: RuntimeOptions, behaviour: Behaviour) -> Vec<String> {
    let host = Host::new();
    let (runtime, plugin) = served(&host, options, behaviour).await;
    runtime.run_pod(&pod("p")).await.unwrap();
    runtime.create_container(&container("p", "c")).await.unwrap();
    runtime.start_container("c").await.unwrap();
    runtime.update_container("c", &cpus("2-3")).await.unwrap();
    runtime.update_pod("p", cpus("0"), cpus("0-3")).await.unwrap();
    runtime.remove_pod("p").await.unwrap();
    assert_eq!(runtime.view().closed, []);
    plugin.told().calls.split_off(2)
}

#[tokio::test]
async fn a_new_runtime_makes_a_call_for_each_event() {
    let calls = everything(RuntimeOptions::default(), Behaviour::default()).await;
    let expected = [
        "run pod p",
        "create p/c",
        "validate ",
        "post create p/c",
        "start p/c",
        "post start p/c",
        "update p/c to 2-3",
        "post update p/c",
        "update pod p 0 0-3",
        "post update pod p",
        "stop p/c",
        "remove p/c",
        "stop pod p",
        "remove pod p",
    ];
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn an_old_runtime_sends_most_events_in_one_call() {
    let calls = everything(RuntimeOptions::old("1.7.24~ds1"), Behaviour::default()).await;
    let expected = [
        "run pod p",
        "create p/c",
        "post create p/c",
        "start p/c",
        "post start p/c",
        "update p/c to 2-3",
        "post update p/c",
        "stop p/c",
        "remove p/c",
        "stop pod p",
        "remove pod p",
    ];
    assert_eq!(calls, expected);
    let funnel = RuntimeOptions {
        state_change: true,
        version: "v2.2.1".into(),
        nri_version: String::new(),
        ..RuntimeOptions::default()
    };
    let calls = everything(funnel, Behaviour::default()).await;
    assert_eq!(calls.len(), 14, "{calls:?}");
    assert!(calls.contains(&"post update pod p".to_owned()), "{calls:?}");
}

#[tokio::test]
async fn only_events_that_are_wanted_reach_the_plugin() {
    for (event, call) in [
        (Event::RunPodSandbox, "run pod p"),
        (Event::StopPodSandbox, "stop pod p"),
        (Event::RemovePodSandbox, "remove pod p"),
        (Event::CreateContainer, "create p/c"),
        (Event::PostCreateContainer, "post create p/c"),
        (Event::StartContainer, "start p/c"),
        (Event::PostStartContainer, "post start p/c"),
        (Event::UpdateContainer, "update p/c to 2-3"),
        (Event::PostUpdateContainer, "post update p/c"),
        (Event::StopContainer, "stop p/c"),
        (Event::RemoveContainer, "remove p/c"),
        (Event::UpdatePodSandbox, "update pod p 0 0-3"),
        (Event::PostUpdatePodSandbox, "post update pod p"),
        (Event::ValidateContainerAdjustment, "validate "),
    ] {
        let behaviour = Behaviour { events: Events::from([event]), ..Behaviour::default() };
        assert_eq!(everything(RuntimeOptions::default(), behaviour).await, [call], "{event:?}");
    }
}
