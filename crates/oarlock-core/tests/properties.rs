//! What holds on every machine: properties of the planner, and a naive model to compare it with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod build;

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::idset::{CpuSet, NodeSet};
use oarlock_core::ledger::{Holding, Ledger};
use oarlock_core::locality::Locality;
use oarlock_core::machine::{Machine, Node, Package};
use oarlock_core::request::{CpuMap, MemMap, Request, Smt};
use oarlock_core::{Plan, plan};
use proptest::prelude::*;

/// A machine before its ids are dealt: small numbers that `deal` turns into a [`Machine`].
#[derive(Debug, Clone)]
struct Shape {
    /// Cores per node; 0 makes a node without CPUs.
    cores: Vec<u8>,
    smt: u8,
    cores_per_l3: u8,
    /// For each GPU the position of its node, or none.
    gpus: Vec<Option<prop::sample::Index>>,
    /// Node ids ascend by these steps.
    steps: Vec<u8>,
    /// Whether siblings are numbered side by side.
    adjacent: bool,
    distances: Vec<u8>,
    memory: Vec<bool>,
}

fn shapes() -> impl Strategy<Value = Shape> {
    (1_usize..6).prop_flat_map(|nodes| {
        (
            prop::collection::vec(0_u8..5, nodes).prop_filter("some cpus", |cores| cores.iter().any(|&c| c > 0)),
            1_u8..3,
            1_u8..4,
            prop::collection::vec(prop::option::weighted(0.9, any::<prop::sample::Index>()), 0..10),
            prop::collection::vec(1_u8..4, nodes),
            any::<bool>(),
            prop::collection::vec(11_u8..40, nodes * nodes),
            prop::collection::vec(prop::bool::weighted(0.9), nodes),
        )
            .prop_map(|(cores, smt, cores_per_l3, gpus, steps, adjacent, distances, memory)| Shape {
                cores,
                smt,
                cores_per_l3,
                gpus,
                steps,
                adjacent,
                distances,
                memory,
            })
    })
}

/// The machine of a shape, its nodes in the order `order` (a permutation of positions) of ascending ids.
fn deal(shape: &Shape, order: &[usize]) -> (Machine, BTreeMap<usize, u32>) {
    let mut next = 0;
    let mut ids = BTreeMap::new();
    for (&position, step) in order.iter().zip(&shape.steps) {
        ids.insert(position, next);
        next += u32::from(*step);
    }
    let total: u32 = shape.cores.iter().map(|&c| u32::from(c)).sum();
    let (smt, mut core) = (u32::from(shape.smt), 0);
    let (mut cores, mut l3, mut nodes, mut packages) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (position, &count) in shape.cores.iter().enumerate() {
        let mine: Vec<CpuSet> = (core..core + u32::from(count))
            .map(|c| (0..smt).map(|t| if shape.adjacent { c * smt + t } else { c + t * total }).collect())
            .collect();
        core += u32::from(count);
        let union = |sets: &[CpuSet]| sets.iter().fold(CpuSet::new(), |all, set| all.union(set));
        l3.extend(mine.chunks(shape.cores_per_l3.into()).map(union));
        if position % 2 == 0 {
            packages.push(Package { id: position as u32, cpus: CpuSet::new() });
        }
        let last = packages.last_mut().unwrap();
        last.cpus = last.cpus.union(&union(&mine));
        nodes.push(Node {
            id: ids[&position],
            cpus: union(&mine),
            memory_mb: Some(if shape.memory[position] { 1024 } else { 0 }),
            gpu_memory: false,
        });
        cores.extend(mine);
    }
    let count = nodes.len();
    let distance =
        |i: usize, j: usize| if i == j { 10 } else { u32::from(shape.distances[i.min(j) * count + i.max(j)]) };
    let gpus = shape.gpus.iter().enumerate().map(|(index, node)| {
        let locality = node.map_or_else(build::unknown, |node| build::on(ids[&node.index(count)]));
        build::gpu(index as u32, locality)
    });
    let machine = Machine {
        links: None,
        name: "dealt".to_owned(),
        nodes,
        cores: Some(cores),
        cores_assumed: false,
        l3: Some(l3),
        packages: Some(packages),
        distances: Some((0..count).map(|i| (0..count).map(|j| distance(i, j)).collect()).collect()),
        gpus: gpus.collect(),
        devices: Vec::new(),
    };
    (machine.checked().unwrap(), ids)
}

fn machines() -> impl Strategy<Value = Machine> {
    shapes().prop_map(|shape| deal(&shape, &(0..shape.cores.len()).collect::<Vec<_>>()).0)
}

fn maps() -> impl Strategy<Value = CpuMap> {
    prop::sample::select(vec![
        CpuMap::Auto,
        CpuMap::Numa,
        CpuMap::Node,
        CpuMap::Socket,
        CpuMap::Exclusive,
        CpuMap::CoreComplex,
    ])
}

/// A machine, what others hold, and a request on it.
fn cases() -> impl Strategy<Value = (Machine, Ledger, Request)> {
    (
        machines(),
        maps(),
        prop::sample::select(vec![MemMap::None, MemMap::Auto, MemMap::Numa]),
        prop::option::of(1_u32..12),
        prop::sample::select(vec![Smt::All, Smt::One]),
        (any::<u64>(), any::<u64>(), any::<u64>()),
        (prop::bool::weighted(0.5), prop::bool::weighted(0.3), prop::bool::weighted(0.3)),
    )
        .prop_map(|(machine, cpu_map, mem_map, ranks, smt, (allowed, held, mems), (cut, holding, cut_mems))| {
            let pick = |set: &CpuSet, bits: u64| -> CpuSet {
                set.iter().filter(|cpu| bits & (1 << (cpu % 64)) != 0).collect()
            };
            let all = machine.cpus();
            let holdings = vec![Holding { holder: "other".to_owned(), cpus: pick(&all, held) }];
            let request = Request {
                cpu_map,
                mem_map,
                ranks,
                smt,
                allowed_cpus: cut.then(|| pick(&all, allowed)),
                allowed_mems: cut_mems.then(|| {
                    machine.nodes.iter().map(|node| node.id).filter(|id| mems & (1 << (id % 64)) != 0).collect()
                }),
                ..Request::default()
            };
            (machine, Ledger { holdings: if holding { holdings } else { Vec::new() } }, request)
        })
}

fn allowed(machine: &Machine, ledger: &Ledger, request: &Request) -> CpuSet {
    let allowed = request.allowed_cpus.clone().unwrap_or_else(|| machine.cpus());
    allowed.intersection(&machine.cpus()).difference(&ledger.held())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn no_set_is_empty_or_wider_than_allowed((machine, ledger, request) in cases()) {
        let allowed = allowed(&machine, &ledger, &request);
        match plan(&machine, &ledger, &request) {
            Err(refusal) => {
                let no_memory = request.allowed_mems.as_ref().is_some_and(|mems| !mems.intersects(&machine.memory_nodes()));
                let reasoned = allowed.is_empty() || request.cpu_map == CpuMap::Exclusive || no_memory;
                prop_assert!(reasoned, "refused without need: {refusal}");
            }
            Ok(plan) => {
                for rank in &plan.ranks {
                    if let Some(cpus) = &rank.cpus {
                        prop_assert!(!cpus.is_empty() && cpus.is_subset(&allowed), "{rank:?}");
                        prop_assert!(cpus.is_subset(&plan.container.cpus));
                    }
                    if let Some(mems) = &rank.mems {
                        let within = request.allowed_mems.clone().unwrap_or_else(|| machine.memory_nodes());
                        prop_assert!(!mems.is_empty() && mems.is_subset(&within) && mems.is_subset(&machine.memory_nodes()));
                        prop_assert!(mems.is_subset(&plan.container.mems));
                    }
                }
                if plan.ranks.iter().any(|rank| rank.cpus.is_none()) {
                    prop_assert_eq!(&plan.container.cpus, &allowed);
                }
            }
        }
    }

    #[test]
    fn exclusive_sets_are_disjoint_whole_cores_and_balanced((machine, ledger, mut request) in cases()) {
        request.cpu_map = CpuMap::Exclusive;
        request.smt = Smt::All;
        let Ok(plan) = plan(&machine, &ledger, &request) else { return Ok(()) };
        let allowed = allowed(&machine, &ledger, &request);
        let mut seen = CpuSet::new();
        for cpus in plan.ranks.iter().filter_map(|rank| rank.cpus.as_ref()) {
            prop_assert!(!cpus.intersects(&seen));
            seen.extend(cpus);
            for core in machine.cores.iter().flatten().filter(|core| core.intersects(cpus)) {
                prop_assert!(core.intersection(&allowed).is_subset(cpus), "core {core} is cut by {cpus}");
            }
        }
        for node in &machine.nodes {
            let cores = |cpus: &CpuSet| {
                let here = cpus.intersection(&node.cpus);
                machine.cores.iter().flatten().filter(|core| core.intersects(&here)).count()
            };
            let counts: Vec<usize> =
                plan.ranks.iter().filter_map(|rank| rank.cpus.as_ref()).map(cores).filter(|&count| count > 0).collect();
            if let (Some(most), Some(least)) = (counts.iter().max(), counts.iter().min()) {
                prop_assert!(most - least <= 1, "{counts:?}");
            }
        }
    }

    #[test]
    fn block_order_is_balanced_within_one_and_ascends(machine in machines(), ranks in 1_u32..20) {
        let request = Request { cpu_map: CpuMap::Numa, ranks: Some(ranks), ..Request::default() };
        let plan = plan(&machine, &Ledger::default(), &request).unwrap();
        let nodes: Vec<u32> = plan.ranks.iter().map(|rank| rank.cpu_nodes.first().unwrap()).collect();
        prop_assert!(nodes.is_sorted());
        let bearing: Vec<u32> = machine.nodes.iter().filter(|n| !n.cpus.is_empty()).map(|n| n.id).collect();
        let counts: Vec<usize> =
            bearing.iter().map(|node| nodes.iter().filter(|id| *id == node).count()).collect();
        prop_assert_eq!(counts.iter().sum::<usize>(), ranks as usize);
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
    }

    #[test]
    fn renumbering_nodes_renumbers_the_plan(
        (shape, order) in shapes().prop_flat_map(|shape| {
            let positions: Vec<usize> = (0..shape.cores.len()).collect();
            (Just(shape), Just(positions).prop_shuffle())
        }),
        map in maps(),
    ) {
        // Block order follows the numbers by its definition.
        prop_assume!(!shape.gpus.is_empty() && map != CpuMap::Numa);
        let (first, first_ids) = deal(&shape, &(0..shape.cores.len()).collect::<Vec<_>>());
        let (second, second_ids) = deal(&shape, &order);
        let request = Request { cpu_map: map, mem_map: MemMap::Auto, ..Request::default() };
        let translate: BTreeMap<u32, u32> = first_ids.iter().map(|(position, id)| (*id, second_ids[position])).collect();
        let renumber = |nodes: &NodeSet| -> NodeSet { nodes.iter().map(|id| translate[&id]).collect() };
        match (plan(&first, &Ledger::default(), &request), plan(&second, &Ledger::default(), &request)) {
            (Ok(first), Ok(second)) => for (one, other) in first.ranks.iter().zip(&second.ranks) {
                prop_assert_eq!(&one.cpus, &other.cpus);
                prop_assert_eq!(renumber(&one.cpu_nodes), other.cpu_nodes.clone());
                prop_assert_eq!(one.mems.as_ref().map(renumber), other.mems.clone());
            },
            (Err(_), Err(_)) => {}
            (one, other) => prop_assert!(false, "one is planned, the other refused: {one:?} {other:?}"),
        }
    }

    #[test]
    fn every_rank_is_on_its_gpus_node_where_that_node_has_room((machine, ledger, mut request) in cases()) {
        request.cpu_map = CpuMap::Auto;
        let Ok(plan) = plan(&machine, &ledger, &request) else { return Ok(()) };
        let allowed = allowed(&machine, &ledger, &request);
        for rank in plan.ranks.iter().filter(|rank| !rank.gpus.is_empty()) {
            let localities: Vec<&Locality> =
                rank.gpus.iter().map(|index| &machine.gpus[*index as usize].locality).collect();
            let nodes: Option<NodeSet> = localities.iter().map(|locality| locality.node()).collect();
            let Some(nodes) = nodes else {
                prop_assert_eq!(&rank.cpus, &None);
                continue;
            };
            let room = |node: u32| machine.node(node).is_some_and(|node| node.cpus.intersects(&allowed));
            if nodes.iter().all(room) {
                prop_assert_eq!(&rank.cpu_nodes, &nodes);
            }
        }
    }

    #[test]
    fn the_planner_agrees_with_the_naive_model((machine, ledger, request) in cases()) {
        let expected = naive(&machine, &ledger, &request);
        let found = plan(&machine, &ledger, &request).ok().map(|plan| bare(&plan));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_set_of_ids_round_trips_and_agrees_with_ordered_sets(
        one in prop::collection::btree_set(0_u32..8192, 0..80),
        other in prop::collection::btree_set(0_u32..8192, 0..80),
    ) {
        let set = |ids: &BTreeSet<u32>| ids.iter().copied().collect::<CpuSet>();
        let ids = |set: &CpuSet| set.iter().collect::<BTreeSet<u32>>();
        let (a, b) = (set(&one), set(&other));
        prop_assert_eq!(a.to_string().parse::<CpuSet>().unwrap(), a.clone());
        prop_assert_eq!(ids(&a.union(&b)), &one | &other);
        prop_assert_eq!(ids(&a.intersection(&b)), &one & &other);
        prop_assert_eq!(ids(&a.difference(&b)), &one - &other);
        prop_assert_eq!(a.is_subset(&b), one.is_subset(&other));
        prop_assert_eq!(a.intersects(&b), !one.is_disjoint(&other));
        prop_assert_eq!(a.len(), one.len());
        prop_assert_eq!(a.cmp(&b), one.cmp(&other));
        let mut emptied = a.clone();
        for id in &one {
            emptied.remove(*id);
        }
        prop_assert_eq!(emptied, CpuSet::new());
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "[0-9,;+:a-z -]{0,40}") {
        for key in oarlock_core::request::KEYS {
            let mut request = Request::default();
            drop(request.set(key, &text));
        }
        if let Ok(set) = text.parse::<CpuSet>() {
            prop_assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
        }
    }
}

/// CPUs and memory of each rank, as plain sets.
type Bare = Vec<(Option<BTreeSet<u32>>, Option<BTreeSet<u32>>)>;

fn bare(plan: &Plan) -> Bare {
    let ranks = plan.ranks.iter();
    ranks.map(|r| (r.cpus.as_ref().map(|c| c.iter().collect()), r.mems.as_ref().map(|m| m.iter().collect()))).collect()
}

/// The rules once more, slowly and with other tools; `None` for a refusal.
fn naive(machine: &Machine, ledger: &Ledger, request: &Request) -> Option<Bare> {
    let set = |cpus: &CpuSet| cpus.iter().collect::<BTreeSet<u32>>();
    let free = set(&allowed(machine, ledger, request));
    if free.is_empty() {
        return None;
    }
    let memory = machine.memory_nodes();
    if !memory.is_empty() && request.allowed_mems.as_ref().is_some_and(|mems| !mems.intersects(&memory)) {
        return None;
    }
    let gpus = &machine.gpus;
    let ranks = request.ranks.map_or(gpus.len().max(1), |ranks| ranks as usize);
    let free_on = |id: u32| -> BTreeSet<u32> { &set(&machine.node(id).unwrap().cpus) & &free };
    let bearing: Vec<u32> =
        machine.nodes.iter().map(|n| n.id).filter(|id| !machine.node(*id).unwrap().cpus.is_empty()).collect();
    let with_room: Vec<u32> = bearing.iter().copied().filter(|id| !free_on(*id).is_empty()).collect();
    let nearest = |from: u32, of: &[u32]| -> BTreeSet<u32> {
        let best = of.iter().map(|to| machine.distance(from, *to).unwrap()).min();
        of.iter().copied().filter(|to| machine.distance(from, *to) == best).collect()
    };
    let gpus_of = |rank: usize| -> Vec<u32> {
        if gpus.is_empty() {
            Vec::new()
        } else if gpus.len().is_multiple_of(ranks) {
            let k = gpus.len() / ranks;
            (rank * k..(rank + 1) * k).map(|index| index as u32).collect()
        } else if rank < gpus.len() {
            vec![rank as u32]
        } else {
            Vec::new()
        }
    };
    let block = |rank: usize| with_room[rank * with_room.len() / ranks];
    let homes: Vec<Option<BTreeSet<u32>>> = (0..ranks)
        .map(|rank| {
            if request.cpu_map == CpuMap::Numa || gpus.is_empty() {
                return Some([block(rank)].into());
            }
            let mine = gpus_of(rank);
            if mine.is_empty() {
                return None;
            }
            let mut home = BTreeSet::new();
            for gpu in mine {
                let own = gpus[gpu as usize].locality.node()?;
                let candidates = if bearing.contains(&own) { [own].into() } else { nearest(own, &bearing) };
                let roomy: BTreeSet<u32> = candidates.iter().copied().filter(|id| with_room.contains(id)).collect();
                home.extend(if roomy.is_empty() { nearest(own, &with_room) } else { roomy });
            }
            Some(home)
        })
        .collect();
    let groups_on = |groups: &[CpuSet], node: u32| -> Vec<BTreeSet<u32>> {
        let here = set(&machine.node(node).unwrap().cpus);
        let mut mine: Vec<BTreeSet<u32>> = groups.iter().map(|group| &(&set(group) & &here) & &free).collect();
        mine.retain(|group| !group.is_empty());
        // Whole groups are ordered by their lowest thread, allowed or not; here every order is by that already.
        mine
    };
    let package = |cpu: u32| machine.packages.iter().flatten().position(|package| package.cpus.contains(cpu));
    let mut answer: Bare = Vec::new();
    for rank in 0..ranks {
        let mut cpus = None;
        if let Some(home) = &homes[rank] {
            let mut mine = BTreeSet::new();
            for &node in home {
                let mut here: Vec<usize> =
                    (0..ranks).filter(|r| homes[*r].as_ref().is_some_and(|home| home.contains(&node))).collect();
                here.sort_by_key(|r| (gpus_of(*r).first().copied(), *r));
                let k = here.iter().position(|r| *r == rank).unwrap();
                match request.cpu_map {
                    CpuMap::Socket => {
                        let wanted = package(*free_on(node).first().unwrap());
                        for &other in &with_room {
                            if package(*free_on(other).first().unwrap()) == wanted {
                                mine.extend(free_on(other));
                            }
                        }
                    }
                    CpuMap::Exclusive => {
                        let cores = groups_on(machine.cores.as_ref().unwrap(), node);
                        if cores.len() < here.len() {
                            return None;
                        }
                        let (q, r) = (cores.len() / here.len(), cores.len() % here.len());
                        let first = k * q + k.min(r);
                        for core in &cores[first..first + q + usize::from(k < r)] {
                            mine.extend(core);
                        }
                    }
                    CpuMap::CoreComplex => {
                        let mut caches = groups_on(machine.l3.as_ref().unwrap(), node);
                        caches.sort_by(|a, b| b.len().cmp(&a.len()).then(a.first().cmp(&b.first())));
                        mine.extend(&caches[k % caches.len()]);
                    }
                    _ => mine.extend(free_on(node)),
                }
            }
            if request.smt == Smt::One {
                let cores: Vec<BTreeSet<u32>> = machine.cores.iter().flatten().map(set).collect();
                mine = cores.iter().filter_map(|core| (core & &mine).first().copied()).collect();
            }
            cpus = Some(mine);
        }
        let usable: BTreeSet<u32> = machine
            .nodes
            .iter()
            .filter(|node| node.memory_mb != Some(0))
            .map(|node| node.id)
            .filter(|id| request.allowed_mems.as_ref().is_none_or(|mems| mems.contains(*id)))
            .collect();
        let wanted: Option<BTreeSet<u32>> = match request.mem_map {
            MemMap::None => None,
            MemMap::Numa => cpus.as_ref().map(|_| [block(rank)].into()),
            _ => cpus.as_ref().map(|cpus| {
                let nodes = machine.nodes.iter();
                nodes.filter(|n| n.cpus.iter().any(|cpu| cpus.contains(&cpu))).map(|n| n.id).collect()
            }),
        };
        let mems = wanted.and_then(|wanted| {
            let here = &wanted & &usable;
            if !here.is_empty() {
                return Some(here);
            }
            let reach = |to: u32| wanted.iter().map(|from| machine.distance(*from, to).unwrap()).min();
            let best = usable.iter().map(|to| reach(*to)).min()?;
            Some(usable.iter().copied().filter(|to| reach(*to) == best).collect())
        });
        answer.push((cpus, mems));
    }
    Some(answer)
}
