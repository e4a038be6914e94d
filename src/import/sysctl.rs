//! sysctl.conf(5) and sysctl.d(5). A sysctl is the default of every socket; here it becomes one of `[defaults]`.

use policy::Key;
use policy::units::DisplayBytes;

use crate::context::Context;
use crate::draft::{Part, quoted};
use crate::note::{Kind, Place};
use crate::text;

/// Reads a file.
pub(crate) fn read(source: usize, context: &mut Context<'_>) {
    let content = context.text(source);
    let mut first = None;
    let mut times: Option<Place> = None;
    for (start, line) in text::lines(content) {
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) {
            continue;
        }
        let Some((key, value)) = trimmed.split_once('=') else { continue };
        let key = key.trim().trim_start_matches('-').trim().replace('/', ".");
        let value = value.trim();
        let place = Place { source, span: text::within(line, start, value) };
        let Some(name) = key.strip_prefix("net.ipv4.") else { continue };
        let notes = &mut context.notes;
        let options = &mut context.defaults;
        match name {
            "tcp_keepalive_time" | "tcp_keepalive_intvl" | "tcp_keepalive_probes" => {
                let Some(value) = text::number(value, &place, notes) else { continue };
                let part = Some(Part { value, place: place.clone() });
                match name {
                    "tcp_keepalive_time" => options.keepalive.time = part,
                    "tcp_keepalive_intvl" => options.keepalive.interval = part,
                    _ => options.keepalive.probes = part,
                }
                times.get_or_insert_with(|| place.clone());
            }
            "tcp_syn_retries" => {
                let Some(number) = text::number(value, &place, notes) else { continue };
                options.set(Key::SynRetries, number.to_string(), &place);
            }
            "ip_default_ttl" => {
                let Some(number) = text::number(value, &place, notes) else { continue };
                options.set(Key::Ttl, number.to_string(), &place);
            }
            "tcp_fin_timeout" => {
                let Some(number) = text::number(value, &place, notes) else { continue };
                options.set(Key::FinTimeout, format!("\"{number}s\""), &place);
            }
            "tcp_notsent_lowat" => {
                let Some(number) = text::number(value, &place, notes) else { continue };
                options.set(Key::NotsentLowat, format!("\"{}\"", DisplayBytes(number)), &place);
            }
            "tcp_congestion_control" => options.set(Key::Congestion, quoted(value), &place),
            "tcp_retries2" => {
                let message = "left out: no socket option says how often data is sent again";
                notes.add(
                    Kind::NotAnOption,
                    &place,
                    message,
                    "user_timeout says for how long: the time that these retries take",
                );
                continue;
            }
            "tcp_synack_retries" | "tcp_retries1" | "tcp_orphan_retries" => {
                notes.add(Kind::NotAnOption, &place, format!("left out: no socket option does what {name} does"), "");
                continue;
            }
            "tcp_tw_reuse" | "tcp_max_tw_buckets" => {
                let message = format!("left out: no socket option does what {name} does");
                notes.add(Kind::NotAnOption, &place, message, "time_wait = false leaves no TIME_WAIT behind");
                continue;
            }
            _ => continue,
        }
        first.get_or_insert(place);
    }
    if let Some(place) = times {
        context.defaults.keepalive.on.get_or_insert((true, place.clone()));
        let message =
            "the sysctl alone switches nothing on; these rules do: every TCP socket gets keepalive with these times";
        context.notes.add(
            Kind::Changed,
            &place,
            message,
            "with --enforce fill programs that set keepalive themselves keep theirs",
        );
    }
    if let Some(place) = first {
        context.defaults_from.push((place, "sysctl".to_owned()));
    }
}

/// Whether a text is of this kind.
pub(crate) fn is_sysctl(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim().trim_start_matches('-').trim_start();
        let is_ours = ["net.", "net/", "vm.", "kernel.", "fs."].iter().any(|start| line.starts_with(start));
        is_ours && line.contains('=')
    })
}
