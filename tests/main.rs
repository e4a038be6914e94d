//! Every test of the project, in one binary: fixtures are files, a file is a test, and what cannot run here is
//! counted as ignored with the reason.

mod aarch64;
mod advice;
mod bounds;
mod cgroup;
mod command;
mod connecting;
mod dead_peers;
mod decisions;
mod deepbind;
mod descriptors;
mod documents;
mod envoy;
mod errors;
mod executables;
mod explain;
mod faults;
mod figures;
mod fill;
mod filters;
mod handlers;
mod hooks;
mod house;
mod import;
mod kubernetes;
mod libcs;
mod memory;
mod names;
mod neighbours;
mod options;
mod oracles;
mod processes;
mod programs;
mod properties;
mod races;
mod reach;
mod received;
mod says;
mod script;
mod sequences;
mod show;
mod situations;
mod supervise;
mod support;
mod time_wait;
mod unasked;

use std::thread;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // Most of the tests wait for the kernel's timers, so more of them run than there are cores.
    arguments.test_threads.get_or_insert_with(|| thread::available_parallelism().map_or(4, |n| n.get() * 4));
    let trials: Vec<Trial> = [
        aarch64::trials(),
        advice::trials(),
        bounds::trials(),
        cgroup::trials(),
        command::trials(),
        connecting::trials(),
        dead_peers::trials(),
        decisions::trials(),
        descriptors::trials(),
        deepbind::trials(),
        documents::trials(),
        envoy::trials(),
        errors::trials(),
        executables::trials(),
        explain::trials(),
        faults::trials(),
        figures::trials(),
        fill::trials(),
        filters::trials(),
        handlers::trials(),
        hooks::trials(),
        house::trials(),
        import::trials(),
        kubernetes::trials(),
        libcs::trials(),
        memory::trials(),
        names::trials(),
        neighbours::trials(),
        options::trials(),
        oracles::trials(),
        processes::trials(),
        programs::trials(),
        races::trials(),
        properties::trials(),
        reach::trials(),
        received::trials(),
        says::trials(),
        sequences::trials(),
        show::trials(),
        situations::trials(),
        supervise::trials(),
        time_wait::trials(),
        unasked::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    programs::write_table();
    conclusion.exit();
}
