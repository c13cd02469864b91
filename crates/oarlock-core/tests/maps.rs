//! What each map means, rule by rule.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod build;

use build::*;
use oarlock_core::CpuSet;
use oarlock_core::ledger::{Holding, Ledger};
use oarlock_core::machine::Machine;
use oarlock_core::plan;
use oarlock_core::request::{GpuChoice, GpuRef};

#[test]
fn auto_puts_each_rank_on_the_node_of_its_gpu_whatever_the_order() {
    let machine = machine(&[(1, "0-3"), (3, "4-7"), (5, "8-11")], &[on(3), on(3), on(1), on(5)]);
    let plan = planned(&machine, &[("cpu-map", "auto"), ("mem-map", "auto")]);
    assert_eq!(cpus_of(&plan), ["4-7", "4-7", "0-3", "8-11"]);
    assert_eq!(mems_of(&plan), ["3", "3", "1", "5"]);
    assert_eq!(plan.ranks[0].reason.to_string(), "gpu 0 (0000:10:00.0) is on node 3");
    assert_eq!((plan.container.cpus.to_string(), plan.container.mems.to_string()), ("0-11".into(), "1,3,5".into()));
    assert!(plan.warnings.is_empty());
}

#[test]
fn the_json_form_is_the_documented_one() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(1), unknown()]);
    let plan = planned(&machine, &[("cpu-map", "auto"), ("mem-map", "auto"), ("ranks", "2")]);
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "machine": "test", "cpu_map": "auto", "mem_map": "auto", "mem_policy": "bind",
            "container": {"cpus": "0-7", "mems": "0-1"},
            "ranks": [
                {"rank": 0, "gpus": [0], "cpus": "4-7", "cpu_nodes": "1", "mems": "1", "reason": "gpu 0 (0000:10:00.0) is on node 1"},
                {"rank": 1, "gpus": [1], "cpus": null, "cpu_nodes": "", "mems": null,
                 "reason": "unbound: gpu 1 (0000:11:00.0): its numa_node is -1 and it has no local cpus"},
            ],
            "warnings": ["rank 1 stays unbound: gpu 1 (0000:11:00.0): its numa_node is -1 and it has no local cpus"],
        })
    );
}

#[test]
fn a_gpu_of_unknown_node_leaves_its_rank_unbound_and_the_container_whole() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(0), unknown()]);
    let plan = planned(&machine, &[("cpu-map", "auto"), ("mem-map", "auto")]);
    assert_eq!(cpus_of(&plan), ["0-3", "-"]);
    assert_eq!(mems_of(&plan), ["0", "-"]);
    assert_eq!((plan.container.cpus.to_string(), plan.container.mems.to_string()), ("0-7".into(), "0-1".into()));
    assert!(warnings_of(&plan).contains("rank 1 stays unbound: gpu 1 (0000:11:00.0)"));
}

#[test]
fn where_refusal_was_asked_for_a_rank_that_would_stay_unbound_is_refused() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(0), unknown()]);
    for map in ["cpu-map", "mem-map"] {
        let refusal = refused(&machine, &[(map, "auto"), ("on-failure", "refuse")]);
        assert_eq!(refusal.key, "oarlock.dev/on-failure");
        assert!(refusal.message.contains("rank 1 stays unbound: gpu 1"), "{refusal}");
    }
    planned(&machine, &[("cpu-map", "numa"), ("mem-map", "numa"), ("on-failure", "refuse")]);
    planned(&machine, &[("on-failure", "refuse")]);
}

#[test]
fn ranks_of_a_container_without_gpus_go_in_block_order() {
    let machine = machine(&[(0, "0-3"), (7, "4-7")], &[]);
    for map in ["auto", "numa", "node"] {
        let plan = planned(&machine, &[("cpu-map", map), ("mem-map", "auto"), ("ranks", "8")]);
        assert_eq!(mems_of(&plan), ["0", "0", "0", "0", "7", "7", "7", "7"], "{map}");
    }
    let plan = planned(&machine, &[("cpu-map", "numa"), ("ranks", "3")]);
    assert_eq!(cpus_of(&plan), ["0-3", "0-3", "4-7"]);
}

#[test]
fn block_order_counts_only_nodes_with_allowed_cpus() {
    let mut machine = machine(&[(0, "0-3"), (1, ""), (2, "4-7"), (3, "8-11")], &[]);
    machine.nodes[1].gpu_memory = true;
    let mut request = request(&[("cpu-map", "numa"), ("mem-map", "numa"), ("ranks", "4")]);
    request.allowed_cpus = Some(cpus("0-3,8-11"));
    let plan = plan(&machine, &Ledger::default(), &request).unwrap();
    assert_eq!(cpus_of(&plan), ["0-3", "0-3", "8-11", "8-11"]);
    assert_eq!(mems_of(&plan), ["0", "0", "3", "3"]);
}

#[test]
fn a_gpu_on_a_node_without_cpus_takes_the_nearest_node_that_has() {
    let mut machine = machine(&[(0, "0-3"), (1, "4-7"), (2, "")], &[on(2)]);
    machine.distances = Some(vec![vec![10, 20, 30], vec![20, 10, 15], vec![30, 15, 10]]);
    let plan = planned(&machine, &[("cpu-map", "auto"), ("mem-map", "auto")]);
    assert_eq!((cpus_of(&plan), mems_of(&plan)), (vec!["4-7".to_owned()], vec!["1".to_owned()]));
    assert_eq!(
        plan.ranks[0].reason.to_string(),
        "gpu 0 (0000:10:00.0) is on node 2, which has no cpus; node 1 is the nearest that has"
    );
    assert!(plan.warnings.is_empty());
}

#[test]
fn where_the_gpus_node_has_no_allowed_cpu_the_nearest_by_distance_that_has_is_taken_with_a_warning() {
    let mut machine = machine(&[(0, "0-3"), (1, "4-7"), (2, "8-11")], &[on(0)]);
    machine.distances = Some(vec![vec![10, 32, 12], vec![32, 10, 32], vec![12, 32, 10]]);
    let mut request = request(&[("cpu-map", "auto"), ("mem-map", "auto")]);
    request.allowed_cpus = Some(cpus("4-11"));
    let plan = plan(&machine, &Ledger::default(), &request).unwrap();
    assert_eq!((cpus_of(&plan), mems_of(&plan)), (vec!["8-11".to_owned()], vec!["2".to_owned()]));
    assert!(warnings_of(&plan).contains("rank 0 runs away from its gpu"), "{}", warnings_of(&plan));
}

#[test]
fn memory_comes_from_the_ranks_node_else_from_the_nearest_that_has_some() {
    let mut machine = machine(&[(0, "0-3"), (1, "4-7"), (2, ""), (3, "")], &[on(0), on(1)]);
    machine.nodes[0].memory_mb = Some(0);
    machine.distances =
        Some(vec![vec![10, 40, 13, 13], vec![40, 10, 40, 40], vec![13, 40, 10, 20], vec![13, 40, 20, 10]]);
    let plan = planned(&machine, &[("cpu-map", "auto"), ("mem-map", "auto")]);
    assert_eq!(mems_of(&plan), ["2-3", "1"]);
    assert!(warnings_of(&plan).contains("rank 0: node 0 has no allowed memory; its memory comes from node 2-3"));

    machine.distances = None;
    let plan = planned(&machine, &[("cpu-map", "auto"), ("mem-map", "auto")]);
    assert_eq!(mems_of(&plan), ["1-3", "1"], "without distances, all that is allowed");
}

#[test]
fn without_a_cpu_map_memory_follows_the_gpu() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(1), on(0)]);
    let plan = planned(&machine, &[("mem-map", "auto")]);
    assert_eq!(cpus_of(&plan), ["-", "-"]);
    assert_eq!(mems_of(&plan), ["1", "0"]);
    assert_eq!(plan.container.cpus.to_string(), "0-7");
}

#[test]
fn gpu_memory_is_never_chosen_but_stays_allowed_for_the_ranks_own_gpus() {
    let mut machine = machine(&[(0, "0-3"), (1, "4-7"), (2, ""), (10, "")], &[on(0), on(1)]);
    for (gpu, node) in [(0, 2), (1, 10)] {
        machine.gpus[gpu].memory_node = Some(node);
    }
    machine.nodes[2].gpu_memory = true;
    machine.nodes[3].gpu_memory = true;
    let plan = planned(&machine, &[("cpu-map", "auto"), ("mem-map", "auto")]);
    assert_eq!(mems_of(&plan), ["0", "1"]);
    assert_eq!((plan.ranks[0].gpu_mems.to_string(), plan.ranks[1].gpu_mems.to_string()), ("2".into(), "10".into()));
    assert_eq!((plan.container.mems.to_string(), plan.container.gpu_mems.to_string()), ("0-1".into(), "2,10".into()));
    let refusal = refused(&machine, &[("mem-map", "2,0")]);
    assert!(refusal.message.contains("entry 1 (rank 0): node 2 is GPU memory"), "{refusal}");
    let plain = planned(&machine, &[("cpu-map", "auto")]);
    assert!(plain.ranks[0].gpu_mems.is_empty(), "memory untouched: nothing to keep");
}

#[test]
fn a_rank_with_several_gpus_gets_the_union_of_their_nodes() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(0), on(0), on(1), on(1)]);
    let whole = planned(&machine, &[("cpu-map", "auto"), ("mem-map", "auto"), ("ranks", "1")]);
    assert_eq!((cpus_of(&whole), mems_of(&whole)), (vec!["0-7".to_owned()], vec!["0-1".to_owned()]));
    let halves = planned(&machine, &[("cpu-map", "auto"), ("ranks", "2")]);
    assert_eq!(cpus_of(&halves), ["0-3", "4-7"]);
    assert_eq!(halves.ranks[1].gpus, [2, 3]);
    let crossed = planned(&machine, &[("cpu-map", "auto"), ("ranks", "2"), ("rank-gpus", "0,2;3")]);
    assert_eq!(cpus_of(&crossed), ["0-7", "4-7"]);
}

#[test]
fn where_gpus_do_not_divide_evenly_rank_i_has_gpu_i() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(0), on(1), on(1)]);
    let plan = planned(&machine, &[("cpu-map", "auto"), ("ranks", "2")]);
    assert_eq!((plan.ranks[0].gpus.as_slice(), plan.ranks[1].gpus.as_slice()), ([0].as_slice(), [1].as_slice()));
    let more = planned(&machine, &[("cpu-map", "auto"), ("ranks", "4")]);
    assert_eq!(cpus_of(&more), ["0-3", "4-7", "4-7", "-"]);
    assert!(warnings_of(&more).contains("rank 3 stays unbound: it has no gpu"));
}

#[test]
fn gpus_are_found_by_index_address_and_uuid_and_any_device_by_its_address() {
    let mut machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(0), on(1)]);
    machine.gpus[0].uuid = Some("GPU-aa".to_owned());
    machine.devices.push(oarlock_core::machine::PciDevice {
        address: "0000:99:00.0".parse().unwrap(),
        class: Some(0x0b_4000),
        vendor: None,
        device: None,
        name: None,
        locality: on(1),
        local_cpus: None,
    });
    let mut request = request(&[("cpu-map", "auto")]);
    request.gpus = GpuChoice::Some(vec![
        GpuRef::Address("0000:99:00.0".parse().unwrap()),
        GpuRef::Uuid("GPU-aa".to_owned()),
        GpuRef::Address("0000:11:00.0".parse().unwrap()),
        GpuRef::Index(0),
    ]);
    let answer = plan(&machine, &Ledger::default(), &request).unwrap();
    assert_eq!(cpus_of(&answer), ["4-7", "0-3", "4-7", "0-3"]);
    assert_eq!(answer.ranks.iter().map(|rank| rank.gpus[0]).collect::<Vec<_>>(), [2, 0, 1, 0]);

    request.gpus = GpuChoice::Some(vec![GpuRef::Index(7)]);
    let refusal = plan(&machine, &Ledger::default(), &request).unwrap_err();
    assert_eq!((refusal.key.as_str(), refusal.message.as_str()), ("gpus", "machine \"test\" has no gpu 7"));
}

#[test]
fn a_count_of_gpus_is_planned_with_the_first_and_says_so() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(1), on(0)]);
    let mut request = request(&[("cpu-map", "auto")]);
    request.gpus = GpuChoice::Count(1);
    let answer = plan(&machine, &Ledger::default(), &request).unwrap();
    assert_eq!(cpus_of(&answer), ["4-7"]);
    assert!(warnings_of(&answer).contains("which 1 of the machine's 2 GPUs"));
    request.gpus = GpuChoice::Count(2);
    assert!(plan(&machine, &Ledger::default(), &request).unwrap().warnings.is_empty());
    request.gpus = GpuChoice::Count(3);
    assert!(plan(&machine, &Ledger::default(), &request).unwrap_err().message.contains("has 2 gpus"));
}

#[test]
fn node_lists_join_with_plus_and_stay_inside_allowed() {
    let machine = two_socket();
    let plan = planned(&machine, &[("cpu-map", "0+1,1,0,0"), ("mem-map", "1,0+1,0,0")]);
    assert_eq!(cpus_of(&plan), ["0-15", "4-7,12-15", "0-3,8-11", "0-3,8-11"]);
    assert_eq!(mems_of(&plan), ["1", "0-1", "0", "0"]);
}

#[test]
fn cpu_lists_are_cut_to_what_is_allowed_and_refused_where_nothing_is_left() {
    let machine = two_socket();
    let mut request = request(&[("cpu-map", "cpus:0-3;4-7"), ("ranks", "2")]);
    request.allowed_cpus = Some(cpus("2-7"));
    let answer = plan(&machine, &Ledger::default(), &request).unwrap();
    assert_eq!(cpus_of(&answer), ["2-3", "4-7"]);
    assert!(warnings_of(&answer).contains("rank 0: cpus 0-1 of its list are not allowed"));
    request.allowed_cpus = Some(cpus("0-3"));
    let refusal = plan(&machine, &Ledger::default(), &request).unwrap_err();
    assert!(refusal.message.contains("entry 2 (rank 1): none of cpus 4-7 is allowed"), "{refusal}");
}

#[test]
fn reserved_and_held_cpus_are_given_to_nobody() {
    let machine = two_socket();
    let mut request = request(&[("cpu-map", "auto")]);
    request.reserved_cpus = cpus("0,8");
    let ledger = Ledger { holdings: vec![Holding { holder: "ns/pod/main".to_owned(), cpus: cpus("4-5") }] };
    let answer = plan(&machine, &ledger, &request).unwrap();
    assert_eq!(cpus_of(&answer), ["1-3,9-11", "1-3,9-11", "6-7,12-15", "6-7,12-15"]);
    request.allowed_cpus = Some(cpus("0,4,8"));
    let refusal = plan(&machine, &ledger, &request).unwrap_err();
    assert!(refusal.message.contains("no cpu is left") && refusal.message.contains("ns/pod/main (4-5)"), "{refusal}");
}

#[test]
fn exclusive_shares_cores_among_the_ranks_of_a_node_and_never_with_other_holders() {
    let machine = two_socket();
    let answer = planned(&machine, &[("cpu-map", "exclusive")]);
    assert_eq!(cpus_of(&answer), ["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"]);

    let holdings = vec![Holding { holder: "ns/other/main".to_owned(), cpus: cpus("0,8") }];
    let after = plan(&machine, &Ledger { holdings }, &request(&[("cpu-map", "exclusive")])).unwrap();
    assert_eq!(cpus_of(&after), ["1-2,9-10", "3,11", "4-5,12-13", "6-7,14-15"]);

    let holdings = vec![Holding { holder: "ns/other/main".to_owned(), cpus: cpus("0-2,8-10") }];
    let refusal = plan(&machine, &Ledger { holdings }, &request(&[("cpu-map", "exclusive")])).unwrap_err();
    assert_eq!(refusal.message, "node 0 has 1 free core for 2 ranks; ns/other/main holds 0-2,8-10");
}

#[test]
fn two_ranks_of_one_gpu_pair_share_by_ranks_not_by_visible_gpus() {
    // torchrun divides by the GPUs it sees: two ranks on a host of 2 + 2 would leave half of each node idle.
    let machine = two_socket();
    let mut request = request(&[("cpu-map", "exclusive"), ("ranks", "2")]);
    request.gpus = GpuChoice::Some(vec![GpuRef::Index(0), GpuRef::Index(2)]);
    let answer = plan(&machine, &Ledger::default(), &request).unwrap();
    assert_eq!(cpus_of(&answer), ["0-3,8-11", "4-7,12-15"]);
}

#[test]
fn nodes_that_share_cpus_are_one_pool_for_exclusive_and_one_memory_for_auto() {
    let mut machine = machine(&[(0, "0-3"), (1, "0-3")], &[]);
    machine.cores = Some((0..4).map(|c| CpuSet::from_iter([c])).collect());
    let answer = planned(&machine, &[("cpu-map", "exclusive"), ("mem-map", "auto"), ("ranks", "2")]);
    assert_eq!(cpus_of(&answer), ["0-1", "2-3"]);
    assert_eq!(mems_of(&answer), ["0-1", "0-1"]);
    assert!(warnings_of(&answer).contains("in several nodes"));
}

#[test]
fn a_cache_that_spans_nodes_gives_each_node_its_part() {
    let mut machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(1), on(0)]);
    machine.l3 = Some(vec![cpus("0-7")]);
    assert_eq!(cpus_of(&planned(&machine, &[("cpu-map", "core-complex")])), ["4-7", "0-3"]);
}

#[test]
fn memory_that_may_not_be_used_at_all_is_a_refusal_and_gpu_memory_that_may_not_a_warning() {
    let mut machine = machine(&[(0, "0-3"), (2, "")], &[on(0)]);
    machine.nodes[1].gpu_memory = true;
    machine.gpus[0].memory_node = Some(2);
    let mut request = request(&[("cpu-map", "auto"), ("mem-map", "auto")]);
    for none in ["", "2", "99"] {
        request.allowed_mems = Some(nodes(none));
        let refusal = plan(&machine, &Ledger::default(), &request).unwrap_err();
        assert_eq!((refusal.key.as_str(), refusal.value.as_str()), ("allowed-mems", none));
    }
    request.allowed_mems = Some(nodes("0"));
    let answer = plan(&machine, &Ledger::default(), &request).unwrap();
    assert!(answer.ranks[0].gpu_mems.is_empty());
    assert!(warnings_of(&answer).contains("node 2 is GPU memory and not among the allowed memory"));
}

#[test]
fn gpus_that_no_rank_drives_are_said() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(0), on(0), on(1)]);
    let answer = planned(&machine, &[("cpu-map", "auto"), ("ranks", "2")]);
    assert!(warnings_of(&answer).contains("the ranks drive 2 of the container's 3 GPUs"), "{}", warnings_of(&answer));
}

#[test]
fn a_rank_that_stays_unbound_is_not_walled_in_either() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(0), unknown()]);
    let answer = planned(&machine, &[("cpu-map", "auto"), ("mem-map", "numa")]);
    assert_eq!(mems_of(&answer), ["0", "-"]);
}

#[test]
fn smt_one_leaves_the_lowest_thread_of_each_core_the_rank_has() {
    let machine = two_socket();
    let plan = planned(&machine, &[("cpu-map", "auto"), ("smt", "one")]);
    assert_eq!(cpus_of(&plan), ["0-3", "0-3", "4-7", "4-7"]);
    let lists = planned(&machine, &[("cpu-map", "cpus:0-3;8-11"), ("smt", "one"), ("ranks", "2")]);
    assert_eq!(cpus_of(&lists), ["0-3", "8-11"], "the upper threads are the lowest that rank 1 has");
}

#[test]
fn omp_threads_auto_counts_cores_and_not_threads() {
    let plan = planned(&two_socket(), &[("cpu-map", "exclusive"), ("omp-threads", "auto")]);
    assert_eq!(plan.ranks.iter().map(|rank| rank.omp_threads).collect::<Vec<_>>(), [Some(2); 4]);
    let fixed = planned(&two_socket(), &[("cpu-map", "auto"), ("omp-threads", "7")]);
    assert_eq!(fixed.ranks[0].omp_threads, Some(7));
    let silent = machine(&[(0, "0-3")], &[]);
    let unset = planned(&silent, &[("cpu-map", "auto"), ("omp-threads", "auto")]);
    assert_eq!(unset.ranks[0].omp_threads, None);
    assert!(warnings_of(&unset).contains("OMP_NUM_THREADS stays unset"));
}

#[test]
fn a_plan_that_rests_on_assumed_cores_says_so_and_no_other_does() {
    let mut machine = two_socket();
    machine.cores_assumed = true;
    for pairs in [[("cpu-map", "exclusive"), ("smt", "all")], [("cpu-map", "auto"), ("smt", "one")]] {
        assert!(warnings_of(&planned(&machine, &pairs)).contains("does not say its cores"), "{pairs:?}");
    }
    assert!(planned(&machine, &[("cpu-map", "auto")]).warnings.is_empty());
}

#[test]
fn maps_that_need_facts_the_source_is_silent_about_are_refused_with_the_fact() {
    let machine = machine(&[(0, "0-3"), (1, "4-7")], &[on(0)]);
    for (map, fact) in [("exclusive", "cores"), ("core-complex", "last-level caches"), ("socket", "packages")] {
        let refusal = refused(&machine, &[("cpu-map", map)]);
        assert!(refusal.message.ends_with(&format!("does not say its {fact}")), "{refusal}");
    }
    assert!(refused(&machine, &[("cpu-map", "auto"), ("smt", "one")]).message.contains("cores"));
}

#[test]
fn preferred_keeps_every_node_allowed_for_the_container() {
    let machine = two_socket();
    let bind = planned(&machine, &[("cpu-map", "0,0,0,0"), ("mem-map", "auto")]);
    assert_eq!(bind.container.mems.to_string(), "0");
    let preferred = planned(&machine, &[("cpu-map", "0,0,0,0"), ("mem-map", "auto"), ("mem-policy", "preferred")]);
    assert_eq!(preferred.container.mems.to_string(), "0-1");
    assert_eq!(mems_of(&preferred), ["0"; 4]);
}

#[test]
fn a_wall_smaller_than_the_memory_limit_is_warned_of_and_names_preferred() {
    let machine = two_socket();
    let mut request = request(&[("cpu-map", "auto"), ("mem-map", "auto")]);
    request.memory_limit = Some(1025 << 20);
    let answer = plan(&machine, &Ledger::default(), &request).unwrap();
    let words = warnings_of(&answer);
    assert!(
        words.contains("ranks 0-1 are bound to the memory of node 0, which has 1024 MiB")
            && words.contains("preferred"),
        "{words}"
    );
    request.memory_limit = Some(1024 << 20);
    assert!(plan(&machine, &Ledger::default(), &request).unwrap().warnings.is_empty());
}

#[test]
fn allowed_cpus_and_memory_that_do_not_match_are_planned_as_well_as_both_allow() {
    let machine = two_socket();
    let mut request = request(&[("cpu-map", "auto"), ("mem-map", "auto")]);
    request.allowed_cpus = Some(cpus("0-3,8-11"));
    request.allowed_mems = Some(nodes("1"));
    let answer = plan(&machine, &Ledger::default(), &request).unwrap();
    assert_eq!(cpus_of(&answer), ["0-3,8-11"; 4]);
    assert_eq!(mems_of(&answer), ["1"; 4]);
    let words = warnings_of(&answer);
    assert!(
        words.contains("memory but no cpu of node 1 is allowed; cpus but no memory of node 0 are allowed"),
        "{words}"
    );
}

#[test]
fn each_wrong_value_is_refused_with_its_key_place_and_rule() {
    let machine = two_socket();
    for (pairs, key, words) in [
        (vec![("cpu-map", "bogus")], "oarlock.dev/cpu-map", "is not a map"),
        (vec![("cpu-map", "")], "oarlock.dev/cpu-map", "is not a map"),
        (vec![("cpu-map", "0,0,1")], "oarlock.dev/cpu-map", "has 3 entries for 4 ranks"),
        (vec![("cpu-map", "0,,1,1")], "oarlock.dev/cpu-map", "entry 2 (rank 1) is empty"),
        (vec![("cpu-map", "0,0,1,7")], "oarlock.dev/cpu-map", "entry 4 (rank 3): there is no node 7"),
        (vec![("cpu-map", "0,0+,1,1")], "oarlock.dev/cpu-map", "entry 2 (rank 1) \"0+\": \"\" is not a node number"),
        (vec![("cpu-map", "0,1-0,1,1")], "oarlock.dev/cpu-map", "\"1-0\" is not a node number"),
        (vec![("cpu-map", "0+0,1,1,1")], "oarlock.dev/cpu-map", "node 0 is named twice"),
        (vec![("cpu-map", "0,0,1,99999")], "oarlock.dev/cpu-map", "past the kernel's highest, 1023"),
        (vec![("cpu-map", "cpus:0-3;4-7;;1")], "oarlock.dev/cpu-map", "entry 3 (rank 2) is empty"),
        (vec![("cpu-map", "cpus:")], "oarlock.dev/cpu-map", "entry 1 (rank 0) is empty"),
        (
            vec![("cpu-map", "cpus:0-3;7-4;1;1")],
            "oarlock.dev/cpu-map",
            "entry 2 (rank 1) \"7-4\": range \"7-4\" at character 1 is reversed",
        ),
        (vec![("cpu-map", "cpus:0-3,2;1;1;1")], "oarlock.dev/cpu-map", "overlaps"),
        (vec![("cpu-map", "cpus:0-3;1;1;9000")], "oarlock.dev/cpu-map", "too large"),
        (vec![("cpu-map", "cpus:0-3;1;1;16-17")], "oarlock.dev/cpu-map", "entry 4 (rank 3): cpus 16-17 are not online"),
        (vec![("mem-map", "node")], "oarlock.dev/mem-map", "is not a map"),
        (vec![("mem-map", "0,1")], "oarlock.dev/mem-map", "has 2 entries for 4 ranks"),
        (vec![("mem-map", "0,1,2,0")], "oarlock.dev/mem-map", "entry 3 (rank 2): there is no node 2"),
        (vec![("mem-policy", "strict")], "oarlock.dev/mem-policy", "is not one of them"),
        (vec![("ranks", "0")], "oarlock.dev/ranks", "is not one"),
        (vec![("ranks", "8193")], "oarlock.dev/ranks", "is not one"),
        (vec![("ranks", "-1")], "oarlock.dev/ranks", "is not one"),
        (vec![("rank-gpus", "0;1;2")], "oarlock.dev/rank-gpus", "has 3 entries for 4 ranks"),
        (vec![("rank-gpus", "0;1;2;4")], "oarlock.dev/rank-gpus", "entry 4 (rank 3): there is no gpu 4 among 4"),
        (vec![("rank-gpus", "0;1;2;3,3")], "oarlock.dev/rank-gpus", "gpu 3 is named twice"),
        (vec![("rank-gpus", "0;1;2;x")], "oarlock.dev/rank-gpus", "\"x\" is not a gpu number"),
        (vec![("smt", "two")], "oarlock.dev/smt", "is not one of them"),
        (vec![("omp-threads", "0")], "oarlock.dev/omp-threads", "is not one of them"),
        (vec![("on-failure", "die")], "oarlock.dev/on-failure", "is not one of them"),
        (vec![("containers", "a,,b")], "oarlock.dev/containers", "\"\" is not the name of a container"),
        (vec![("cpu_map", "auto")], "oarlock.dev/cpu_map", "is not a known key"),
    ] {
        let refusal = refused(&machine, &pairs);
        assert_eq!(refusal.key, key, "{pairs:?}");
        assert!(refusal.message.contains(words), "{pairs:?}: {refusal}");
        assert_eq!(refusal.value, pairs[0].1);
        assert!(!refusal.to_string().contains('\n'));
    }
}

#[test]
fn a_node_without_cpus_in_a_list_is_refused() {
    let machine = machine(&[(0, "0-3"), (1, "")], &[]);
    assert!(refused(&machine, &[("cpu-map", "1")]).message.contains("entry 1 (rank 0): node 1 has no cpus"));
    let mut without = machine.clone();
    without.nodes[1].memory_mb = Some(0);
    assert!(refused(&without, &[("mem-map", "1")]).message.contains("node 1 has no memory"));
    assert_eq!(mems_of(&planned(&machine, &[("mem-map", "1")])), ["1"], "memory without cpus is fine for memory");
}

#[test]
fn none_leaves_everything_as_it_is() {
    let plan = planned(&two_socket(), &[]);
    assert_eq!(cpus_of(&plan), ["-"; 4]);
    assert_eq!((plan.container.cpus.to_string(), plan.container.mems.to_string()), ("0-15".into(), "0-1".into()));
}

type Break = Box<dyn Fn(&mut Machine)>;

#[test]
fn contradicting_machines_are_no_machines() {
    let good = two_socket();
    let broken: Vec<(&str, Break)> = vec![
        ("no NUMA node", Box::new(|m| m.nodes.clear())),
        ("no node has a cpu", Box::new(|m| m.nodes.iter_mut().for_each(|n| n.cpus = CpuSet::new()))),
        ("node 0 is described twice", Box::new(|m| m.nodes[1].id = 0)),
        ("distances has row lengths [2] for 2 nodes", Box::new(|m| m.distances = Some(vec![vec![10, 20]]))),
        ("cpus 1,9 are in two cores", Box::new(|m| m.cores.as_mut().unwrap().push(cpus("1,9")))),
        ("cpus 99 are in l3 groups but in no node", Box::new(|m| m.l3.as_mut().unwrap().push(cpus("99")))),
        ("gpu 1 is described twice", Box::new(|m| m.gpus[0].index = 1)),
        ("pci address 0000:10:00.0 is described twice", Box::new(|m| m.gpus[1].pci = m.gpus[0].pci)),
        ("gpu 0 is on node 9, which is not described", Box::new(|m| m.gpus[0].locality = on(9))),
    ];
    for (words, break_it) in broken {
        let mut machine = good.clone();
        break_it(&mut machine);
        let error = machine.checked().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
