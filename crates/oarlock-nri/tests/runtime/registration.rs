//! How plugin and runtime get to know each other.

use std::time::Duration;

use oarlock_nri::proto::Event;
use oarlock_nri::{Events, NriVersion};
use oarlock_testkit::runtime::RuntimeOptions;

use crate::plugin::{Behaviour, Host, TestPlugin, container, cpus_of, pod, served, update};

#[tokio::test]
async fn a_plugin_registers_is_configured_and_synchronised() {
    let host = Host::new();
    let options = RuntimeOptions {
        config: "key: value".to_owned(),
        request_timeout: Duration::from_millis(1234),
        pods: vec![pod("p")],
        containers: vec![container("p", "c")],
        ..RuntimeOptions::default()
    };
    let synchronize = Ok(vec![update("c", "4-7"), update("unknown", "1")]);
    let (runtime, plugin) = served(&host, options, Behaviour { synchronize, ..Behaviour::default() }).await;

    let view = runtime.view();
    assert_eq!(view.plugins, ["10-test"]);
    assert_eq!(view.registrations[0].nri_version, NriVersion::OWN.to_string());
    let told = plugin.told();
    assert_eq!(told.calls, ["configure", "synchronize"]);
    let configuration = &told.configurations[0];
    assert_eq!(configuration.text, "key: value");
    assert_eq!((configuration.runtime.as_str(), configuration.runtime_version.as_str()), ("containerd", "v2.3.4"));
    assert_eq!(configuration.nri_version, Some(NriVersion::new(0, 12, 0)));
    assert_eq!(configuration.request_timeout, Duration::from_millis(1234));
    assert_eq!(told.synchronized, [(vec![pod("p")], vec![container("p", "c")])]);
    assert_eq!(cpus_of(&runtime.container("c").await.unwrap()), "4-7", "the update of the synchronisation");
}

#[tokio::test]
async fn a_runtime_is_asked_for_the_events_that_the_plugin_wants_and_it_knows() {
    let wanted = Events::from([Event::CreateContainer, Event::UpdatePodSandbox, Event::ValidateContainerAdjustment]);
    let (create, update_pod, validate) = (1 << 3, 1 << 11, 1 << 13);
    for (version, nri_version, known, mask) in [
        ("v2.3.4", "v0.12.0", 14, create | update_pod | validate),
        ("v2.2.1", "", 14, create | update_pod | validate),
        ("2.1.4~ds2", "", 11, create),
        ("1.7.24~ds1", "", 11, create),
        ("main", "(devel)", 11, create),
    ] {
        let host = Host::new();
        let options = RuntimeOptions {
            version: version.to_owned(),
            nri_version: nri_version.to_owned(),
            known_events: (1 << known) - 1,
            ..RuntimeOptions::default()
        };
        let (runtime, plugin) = served(&host, options, Behaviour { events: wanted, ..Behaviour::default() }).await;
        assert_eq!(runtime.view().events["10-test"], mask, "{version}");
        let events = plugin.told().configurations[0].events;
        assert_eq!(events.contains(Event::UpdatePodSandbox), mask & update_pod != 0, "{version}");
        assert!(events.contains(Event::CreateContainer) && !events.contains(Event::StopContainer), "{version}");
    }
}

#[tokio::test]
async fn a_plugin_whose_events_the_runtime_does_not_know_asks_for_none_rather_than_all() {
    let host = Host::new();
    let runtime = host.runtime_with(RuntimeOptions::old("1.7.24~ds1"));
    let events = Events::from([Event::ValidateContainerAdjustment]);
    let plugin = TestPlugin::new(Behaviour { events, ..Behaviour::default() });
    host.plug("10", "test", &plugin);
    let view = runtime.until(|view| !view.refused.is_empty()).await;
    assert!(view.events.is_empty(), "{:?}", view.events);
    let lost = plugin.until(|told| !told.lost.is_empty()).await.lost;
    let rule = "containerd 1.7.24~ds1 knows none of the events that are wanted: {ValidateContainerAdjustment}";
    assert_eq!(lost[0], format!("the plugin failed in Configure: {rule}"));
}

#[tokio::test]
async fn a_synchronisation_in_parts_comes_as_one() {
    let host = Host::new();
    let options = RuntimeOptions {
        pods: (0..7).map(|number| pod(&format!("p{number}"))).collect(),
        containers: (0..23).map(|number| container("p0", &format!("c{number:02}"))).collect(),
        objects_per_message: 5,
        ..RuntimeOptions::default()
    };
    let behaviour = Behaviour { synchronize: Ok(vec![update("c22", "3")]), ..Behaviour::default() };
    let (runtime, plugin) = served(&host, options.clone(), behaviour).await;
    assert_eq!(runtime.view().synchronisation, 5);
    assert_eq!(plugin.told().synchronized, [(options.pods, options.containers)]);
    assert_eq!(cpus_of(&runtime.container("c22").await.unwrap()), "3");
}

#[tokio::test]
async fn messages_may_come_in_frames_of_any_length() {
    for frame in [1, 7, 4096, 1 << 20] {
        let host = Host::new();
        let options = RuntimeOptions {
            pods: (0..40).map(|number| pod(&format!("pod-{number:02}"))).collect(),
            frame,
            ..RuntimeOptions::default()
        };
        let (_runtime, plugin) = served(&host, options.clone(), Behaviour::default()).await;
        assert_eq!(plugin.told().synchronized[0].0, options.pods, "{frame}");
    }
}

#[tokio::test]
async fn a_plugin_that_fails_to_configure_or_to_synchronise_is_told_so_and_tries_again() {
    let configure = Behaviour { configure: Err("no such key"), ..Behaviour::default() };
    let synchronize = Behaviour { synchronize: Err("no such node"), ..Behaviour::default() };
    for (behaviour, words, method) in
        [(configure, "no such key", "Configure"), (synchronize, "no such node", "Synchronize")]
    {
        let host = Host::new();
        let runtime = host.runtime();
        let plugin = TestPlugin::new(behaviour);
        host.plug("10", "test", &plugin);
        let view = runtime.until(|view| view.refused.len() >= 2).await;
        assert!(view.refused[0].contains(words), "{:?}", view.refused);
        assert!(plugin.told().lost[0].ends_with(&format!("in {method}: {words}")), "{:?}", plugin.told().lost);
        assert!(view.plugins.is_empty());
        plugin.behave(Behaviour::default());
        runtime.until_plugins(1).await;
    }
}

#[tokio::test]
async fn plugins_are_taken_one_after_the_other() {
    let host = Host::new();
    let runtime = host.runtime();
    let slow = TestPlugin::new(Behaviour { slowness: Duration::from_millis(500), ..Behaviour::default() });
    let quick = TestPlugin::new(Behaviour::default());
    host.plug("10", "slow", &slow);
    slow.until(|told| !told.calls.is_empty()).await;
    host.plug("05", "quick", &quick);
    runtime.until_plugins(2).await;
    let view = runtime.view();
    let names: Vec<&str> = view.registrations.iter().map(|one| one.plugin_name.as_str()).collect();
    assert_eq!(names, ["slow", "quick"]);
    assert_eq!(view.plugins, ["05-quick", "10-slow"], "in the order of their indices");
    assert!(quick.told().lost.is_empty(), "{:?}", quick.told().lost);
}
