//! After the program's own look-ups of host names: what they were told goes into the table.

use std::ffi::{c_char, c_int};
use std::net::IpAddr;

use libc::{addrinfo, hostent};
use policy::{Endpoint, HostSet, Name, Rules};
use socket::memory::{Near, Place};

use crate::setup::{Runtime, runtime};
use crate::{fault, guard, log, lookup_table};

/// After a look-up that gave something: what it told is learned, if rules name hosts. For all others it costs one load.
#[inline]
fn learn_from(work: impl FnOnce(&Runtime, Near<'_>) + Copy) {
    if !lookup_table::is_enabled() {
        return;
    }
    let Some(runtime) = runtime().filter(|runtime| runtime.rules.names_hosts()) else { return };
    let place = Place::here();
    let near = place.page();
    guard::contained(|| {
        fault::point("look-up");
        work(runtime, near);
    });
}

/// After getaddrinfo(3).
pub(crate) fn after_getaddrinfo(status: c_int, asked: *const c_char, answer: *const *mut addrinfo) {
    if status == 0 {
        learn_from(|runtime, near| {
            if let Some(first) = near.pointer(answer, 0) {
                learn_list(runtime, near, asked, first);
            }
        });
    }
}

/// After one of the gethostbyname(3) family.
pub(crate) fn after_gethostbyname(asked: *const c_char, answer: *const hostent) {
    if !answer.is_null() {
        learn_from(|runtime, near| learn_host(runtime, near, asked, answer));
    }
}

/// The same where the answer is behind a pointer, null if there is none.
pub(crate) fn after_gethostbyname_r(status: c_int, asked: *const c_char, answer: *const *mut hostent) {
    if status == 0 {
        learn_from(|runtime, near| {
            if let Some(host) = near.pointer(answer, 0) {
                learn_host(runtime, near, asked, host);
            }
        });
    }
}

/// Longer answers are cut off.
const MOST_ANSWERS: usize = 1024;

fn learn_list(runtime: &Runtime, near: Near<'_>, asked: *const c_char, first: *const addrinfo) {
    let Some((name, is_absolute)) = name_at(near, asked) else { return };
    let Some(head) = near.addrinfo(first) else { return };
    let mut hosts = HostSet::NONE;
    runtime.rules.add_hosts(&mut hosts, &name);
    let is_told = add_told(&runtime.rules, near, &mut hosts, &name, head.ai_canonname);
    // Who completed the name is not said. The C library has its own answer for localhost.
    if !is_absolute && !is_told && name.as_str() != "localhost" {
        runtime.search.iter().for_each(|domain| runtime.rules.add_completed_hosts(&mut hosts, &name, domain));
    }
    let (mut next, mut last, mut count) = (first, None, 0);
    for _ in 0..MOST_ANSWERS {
        let Some(one) = near.addrinfo(next) else { break };
        next = one.ai_next;
        let address = near.address(one.ai_addr, one.ai_addrlen);
        let Some(Ok(endpoint)) = address.map(|address| address.endpoint()) else { continue };
        // An address comes once for each type of socket.
        if last.replace(endpoint.ip()) != Some(endpoint.ip()) {
            lookup_table::learn(endpoint.ip(), &hosts);
            count += 1;
        }
    }
    report(&name, &hosts, count);
}

/// Adds what the canonical name matches; whether it is the asked name, maybe completed.
#[inline(never)]
fn add_told(rules: &Rules, near: Near<'_>, hosts: &mut HostSet, asked: &Name, canonical: *const c_char) -> bool {
    let Some((name, _)) = name_at(near, canonical) else { return false };
    rules.add_hosts(hosts, &name);
    name.as_str().strip_prefix(asked.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn learn_host(runtime: &Runtime, near: Near<'_>, asked: *const c_char, host: *const hostent) {
    let Some((name, _)) = name_at(near, asked) else { return };
    let Some(host) = near.hostent(host) else { return };
    let mut hosts = HostSet::NONE;
    runtime.rules.add_hosts(&mut hosts, &name);
    // It has the completed name here, or among the aliases.
    add_told(&runtime.rules, near, &mut hosts, &name, host.h_name);
    for alias in (0..MOST_ANSWERS).map_while(|index| near.pointer(host.h_aliases, index)) {
        add_told(&runtime.rules, near, &mut hosts, &name, alias);
    }
    let mut count = 0;
    let list = host.h_addr_list;
    for address in (0..MOST_ANSWERS).map_while(|index| near.pointer(list, index)) {
        let ip = match host.h_addrtype {
            libc::AF_INET => near.host_address::<4>(list, address).map(IpAddr::from),
            libc::AF_INET6 => near.host_address::<16>(list, address).map(IpAddr::from),
            _ => None,
        };
        let Some(ip) = ip else { break };
        lookup_table::learn(Endpoint::new(ip, 0).ip(), &hosts);
        count += 1;
    }
    report(&name, &hosts, count);
}

/// A name in the program's memory, and whether it ends in a dot.
#[inline(never)] // the buffer is gone when it returns
fn name_at(near: Near<'_>, text: *const c_char) -> Option<(Name, bool)> {
    let mut buffer = [0; 256];
    let text = near.text(text, &mut buffer)?;
    Some((Name::new(text)?, text.ends_with(b".")))
}

fn report(name: &Name, hosts: &HostSet, count: usize) {
    if *hosts != HostSet::NONE {
        log::debug(format_args!("look-up of {}: {count} addresses of a host that rules name", name.as_str()));
    }
}
