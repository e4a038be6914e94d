//! `sockopt show`: every TCP socket of running programs, as the kernel has it.

use std::io::Write;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use policy::health::State;
use socket::signal;

use crate::processes::{self, Filter, Found, Selection};
use crate::show_json::json;
use crate::show_text::people;
use crate::way::{self, Attached, Way};
use crate::{exit, output};

pub(crate) fn command() -> Command {
    let command = Command::new("show")
        .about("Show the TCP sockets of programs, and which look half-open")
        .long_about(
            "Shows every TCP socket of running programs, with the options in force and what the kernel knows about the \
             connection. The programs are neither stopped nor traced: their descriptors are copied for a moment \
             (pidfd_getfd, Linux 5.6). You may do that with your own programs, and with all programs if you have CAP_SYS_PTRACE. \
             After a program's name, show says whether its options are set by the library, by a supervisor or by the kernel (sockopt \
             attach), if that is known. Only root can see what is attached in the kernel.",
        )
        .after_long_help(LEGEND);
    let command = processes::with_selection(command, false).arg(
        Arg::new("all")
            .long("all")
            .action(ArgAction::SetTrue)
            .conflicts_with("process-or-name")
            .help("Show every process that you may inspect"),
    );
    processes::with_filters(command)
        .arg(Arg::new("listen").long("listen").action(ArgAction::SetTrue).help("Show only listening sockets"))
        .arg(
            Arg::new("watch")
                .long("watch")
                .value_name("SECONDS")
                .num_args(0..=1)
                .help("Repeat every 2 seconds, or every SECONDS, until Ctrl-C"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print JSON, with more figures; with --watch one line each time"),
        )
}

const LEGEND: &str = "Verdicts:
  half-open?  data or probes unanswered for longer than the round trip explains
  unguarded   idle without keepalive: a vanished peer would never be noticed
  listening, connecting, closing, closed, ok

Columns:
  FD          lowest descriptor; a + after it: the socket has several
  KEEPALIVE   time, interval and number of probes, or off
  USER T.O.   TCP_USER_TIMEOUT
  UNSENT      bytes written but not sent yet
  UNACKED     bytes sent but not acknowledged
  LAST DATA   time since data last arrived
  LAST ACK    time since an acknowledgement last arrived
  RETRANS     retransmissions that are unanswered
  TIMER       the pending timer; in parentheses, the unanswered probes

Exit status:
  0  shown
  1  a process does not exist, or access is denied
  2  wrong usage";

pub(crate) fn show(matches: &ArgMatches) -> u8 {
    shown(matches).unwrap_or_else(|code| code)
}

fn shown(matches: &ArgMatches) -> Result<u8, u8> {
    let (interval, name) = watch(matches)?;
    let selection = Selection::new(matches, name)?;
    let filter = Filter::new(matches)?;
    let listeners_only = matches.get_flag("listen");
    let as_json = matches.get_flag("json");
    let look = || {
        let mut found = selection.look();
        for looked in &mut found.processes {
            looked.sockets.retain(|socket| {
                filter.lets_through(&socket.current) && (!listeners_only || socket.current.info.state == State::Listen)
            });
        }
        found
    };
    let Some(interval) = interval else {
        let found = look();
        let code = found.report();
        say_who_has_a_ring(&found);
        output::print(&if as_json { json(&found, true) } else { people(&found, output::terminal_size().map(|s| s.0)) });
        return Ok(code);
    };
    signal::block(&WAKING);
    let mut screen = Screen::default();
    loop {
        let found = look();
        if found.processes.is_empty() && found.failures.iter().any(|failure| failure.is_fatal) {
            return Ok(found.report());
        }
        if as_json {
            output::print(&json(&found, false));
        } else {
            screen.show(&found);
        }
        if output::is_closed() {
            return Ok(exit::OK);
        }
        match signal::wait_for(&WAKING, interval) {
            None | Some(libc::SIGWINCH) => {}
            Some(_) => return Ok(exit::OK),
        }
    }
}

/// What a program does by io_uring is seen by programs in the kernel alone.
fn say_who_has_a_ring(found: &Found) {
    let attached = Attached::now();
    for looked in found.processes.iter().filter(|looked| way::has_ring(looked.pid) && !attached.is_for(looked.pid)) {
        let Some(way) = Way::of(looked.pid).map(Way::name) else { continue };
        let title = processes::title(looked.pid, &looked.process);
        output::note(&format!(
            "{title} uses io_uring: connections that it makes with io_uring get no options, because the {way} does not see them"
        ));
    }
}

/// What ends `--watch`, or changes what it is shown on.
const WAKING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGWINCH];

/// The interval of `--watch`; what follows it and is no time is a process, and so is a number if there is no other.
fn watch(matches: &ArgMatches) -> Result<(Option<Duration>, Option<String>), u8> {
    const INTERVAL: Duration = Duration::from_secs(2);
    const LONGEST: f64 = 1e6;
    if matches.value_source("watch").is_none() {
        return Ok((None, None));
    }
    let Some(given) = matches.get_one::<String>("watch") else { return Ok((Some(INTERVAL), None)) };
    let has_processes = matches.contains_id("process-or-name") || matches.get_flag("all");
    match given.strip_suffix('s').unwrap_or(given).parse::<f64>() {
        Ok(seconds) if has_processes && (0.1..=LONGEST).contains(&seconds) => {
            Ok((Some(Duration::from_secs_f64(seconds)), None))
        }
        Ok(_) if has_processes => {
            output::error(&format!("--watch: \"{given}\" is out of range"), Some("accepted: seconds, 0.1 or more"));
            Err(exit::USAGE)
        }
        _ => Ok((Some(INTERVAL), Some(given.clone()))),
    }
}

/// A terminal that is written over again and again; or whatever else stdout is, where one follows the other.
#[derive(Default)]
struct Screen {
    is_used: bool,
}

impl Screen {
    fn show(&mut self, found: &Found) {
        let size = output::terminal_size();
        let mut text = people(found, size.map(|(width, _)| width));
        for failure in &found.failures {
            text.push_str(&format!("{}\n", output::plain(&failure.message)));
        }
        let Some((_, height)) = size else {
            let gap = if self.is_used { "\n" } else { "" };
            self.is_used = true;
            return output::print(&format!("{gap}{text}"));
        };
        let lines = text.lines().count();
        if lines >= height {
            let kept: Vec<&str> = text.lines().take(height.saturating_sub(2)).collect();
            text = format!("{}\n... {} more lines\n", kept.join("\n"), lines - kept.len());
        }
        // Whether colours are wanted says nothing about moving the cursor.
        let stdout = std::io::stdout();
        if anstream::AutoStream::choice(&stdout) == anstream::ColorChoice::Never {
            text = anstream::adapter::strip_str(&text).to_string();
        }
        let first = if self.is_used { "" } else { "\x1b[2J" };
        self.is_used = true;
        let body = text.replace('\n', "\x1b[K\n");
        let mut stdout = stdout.lock();
        output::written(write!(stdout, "{first}\x1b[H{body}\x1b[J").and_then(|()| stdout.flush()));
    }
}
