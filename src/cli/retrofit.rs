//! Sets a configuration's options on sockets that programs have already: for `apply`, and for what `attach` finds.

use std::os::fd::{AsFd, AsRawFd};

use policy::constants;
use policy::health::State;
use policy::in_kernel::InKernel;
use policy::plan::Plan;
use policy::rules::Rule;
use policy::{Connection, Endpoint, Enforce, HostSet, Key, Phase, Phases, Rules, Setting, Value};
use socket::current;
use socket::enact::Enactment;
use socket::fill::AsNew;
use socket::namespace::Timer;
use socket::process::Descriptor;
use socket::setting::Outcome;

use crate::apply_report::{Applied, Change, Failure};
use crate::keeper::Keeper;
use crate::processes::{ProcessSockets, direction};

/// What it takes.
pub(crate) struct Means<'a> {
    /// For the process.
    pub(crate) rules: &'a Rules,
    /// What a new socket has.
    pub(crate) new: &'a AsNew,
    /// Nothing is changed.
    pub(crate) is_dry: bool,
    /// Where programs in the kernel are to have the sockets from now on.
    pub(crate) keeper: Option<&'a Keeper<'a>>,
}

impl Means<'_> {
    /// Who has the last word. Where it is the program, and programs in the kernel have set the options of most sockets, what it
    /// has chosen since is left alone: it has had its word.
    fn enforce(&self, plan: &Plan<'_>) -> Enforce {
        match plan.enforce() {
            Enforce::Never if self.keeper.is_some() => Enforce::Fill,
            enforce => enforce,
        }
    }
}

/// A socket that a configuration may be about.
pub(crate) struct Subject<'a> {
    pub(crate) descriptor: &'a Descriptor,
    local: Option<Endpoint>,
    peer: Option<Endpoint>,
    connection: Option<Connection>,
    /// None of UDP.
    state: Option<State>,
    timer: Option<Timer>,
    /// Connections that a listener has not handed out yet.
    waiting: u32,
}

/// Those of a process.
pub(crate) fn subjects<'a>(looked: &'a ProcessSockets, rules: &Rules) -> Vec<Subject<'a>> {
    let tcp = looked.sockets.iter().map(|socket| Subject {
        descriptor: &socket.descriptor,
        local: socket.current.local,
        peer: socket.current.peer,
        connection: socket.connection,
        state: Some(socket.current.info.state),
        timer: socket.timer,
        waiting: if socket.current.info.state == State::Listen { socket.current.info.unacked } else { 0 },
    });
    let udp = looked.datagrams.iter().filter(|_| rules.phases().contains(Phase::Datagram)).map(|datagram| Subject {
        descriptor: &datagram.descriptor,
        local: datagram.local,
        peer: Some(datagram.peer),
        connection: Some(Connection::Outbound { peer: datagram.peer }),
        state: None,
        timer: None,
        waiting: 0,
    });
    tcp.chain(udp).collect()
}

/// What may be for a connection before the rule that is by its address: nothing tells afterwards by which name it was made.
fn may_be_meant_by_name(rules: &Rules, peer: Endpoint, found: Option<&Rule>) -> Option<String> {
    let mut before = rules.rules().take_while(|rule| found.is_none_or(|found| *rule != found));
    let is_meant = |rule: &&Rule| rule.hosts().any(|host| host.ports().contains(&peer.port()));
    before.find(is_meant).map(|rule| format!("rule \"{}\"", rule.name()))
}

impl Subject<'_> {
    /// Sets what is to be set, or finds out what would be. None: it is closed by now.
    pub(crate) fn retrofit(&self, looked: &ProcessSockets, means: &Means<'_>) -> Option<Applied> {
        let Means { rules, new, is_dry, keeper } = *means;
        let mut applied = Applied {
            fds: self.descriptor.fds.clone(),
            thread: self.descriptor.thread,
            inode: self.descriptor.inode,
            protocol: if self.state.is_some() { "tcp" } else { "udp" },
            local: self.local.map(|local| local.to_string()),
            peer: self.peer.map(|peer| peer.to_string()),
            direction: self.connection.as_ref().and_then(direction),
            state: self.state.map(State::name),
            rule: None,
            changes: Vec::new(),
            failures: Vec::new(),
            already: Vec::new(),
            left_to_the_program: Vec::new(),
            left_out: Vec::new(),
            left_alone: None,
            held: false,
            waiting: self.waiting,
            timer: self.timer,
            kept: None,
        };
        let Some(connection) = self.connection else {
            applied.left_alone = Some("not connected".to_owned());
            return Some(applied);
        };
        let hosts = keeper.map_or(HostSet::NONE, |keeper| keeper.hosts(rules, &connection));
        let plan = rules.plan(connection, self.phases(&connection), &hosts);
        // Whether or not anything is set on a listener itself, its clients may have a rule.
        if let (Connection::Listening { local }, Some(keeper)) = (connection, keeper)
            && let Ok(copy) = looked.target.copy(self.descriptor)
        {
            keeper.listens(copy.as_fd(), &looked.process, local);
        }
        if let (Connection::Outbound { peer }, None) = (connection, keeper)
            && let Some(name) = may_be_meant_by_name(rules, peer, plan.decision().rule())
        {
            applied.left_alone =
                Some(format!("as {name} names a host, and by which name a program has connected is not known"));
            return Some(applied);
        }
        if let Some(reason) = plan.bypass() {
            applied.left_alone = Some(reason.to_string());
            return Some(applied);
        }
        applied.rule = Some(plan.decision().to_string());
        let is_made = |setting: &&Setting| keeper.is_none_or(|keeper| keeper.makes(&plan, setting));
        let (settings, left_out): (Vec<&Setting>, Vec<&Setting>) =
            plan.settings().filter(is_made).partition(|setting| self.can_have(setting));
        applied.left_out = left_out.iter().map(|setting| setting.key.name()).collect();
        applied.left_out.dedup();
        if settings.is_empty() {
            applied.left_alone = Some("no option that can still be set".to_owned());
            return Some(applied);
        }
        let copy = looked.target.copy(self.descriptor).ok()?;
        let fd = copy.as_raw_fd();
        let known = keeper.map(|keeper| keeper.release(copy.as_fd()));
        let unknown = |setting: &Setting, errno| {
            let errno = format!("it is not known whether the program has set it: {errno}");
            applied.failures.push(Failure { setting: setting.to_string(), errno });
        };
        let enactment = Enactment::begin(fd, means.enforce(&plan), settings.iter().copied(), new, unknown);
        let (settings, chosen): (Vec<&Setting>, Vec<&Setting>) =
            settings.into_iter().partition(|setting| enactment.makes(setting));
        leave_what_is_chosen(&mut applied, fd, &chosen);
        for same_key in settings.chunk_by(|one, next| one.key == next.key) {
            let before: Vec<Option<Value>> = same_key.iter().map(|setting| current::value(fd, setting).ok()).collect();
            let is_so = |(setting, before): (&&Setting, &Option<Value>)| {
                before.as_ref() == Some(&read_back(setting, before.as_ref()))
            };
            if same_key.iter().zip(&before).all(is_so) {
                applied.already.extend(same_key.iter().map(|setting| name(setting)));
                continue;
            }
            // All of a key's then, in their order: that of the keepalive counts the idle time that has passed.
            for (setting, before) in same_key.iter().zip(before) {
                let after = if is_dry {
                    read_back(setting, before.as_ref())
                } else {
                    match enactment.make(setting) {
                        Outcome::Done => current::value(fd, setting).unwrap_or_else(|_| setting.value.clone()),
                        Outcome::Absent | Outcome::LeftToProgram => continue,
                        Outcome::Failed(errno) => {
                            let failure = Failure { setting: setting.to_string(), errno: errno.to_string() };
                            applied.failures.push(failure);
                            continue;
                        }
                    }
                };
                if before.as_ref() == Some(&after) && is_held(setting, before.as_ref(), &after) {
                    let errno = "an eBPF program keeps the present value".to_owned();
                    applied.failures.push(Failure { setting: setting.to_string(), errno });
                    applied.held = true;
                } else if before.as_ref() == Some(&after) {
                    applied.already.push(name(setting));
                } else {
                    applied.changes.push(Change { option: name(setting), before, after });
                }
            }
        }
        if let Some((keeper, known)) = keeper.zip(known) {
            let is_in_force = |setting: &&Setting| applied.has(&name(setting));
            let in_force: Vec<&Setting> = settings.into_iter().filter(is_in_force).collect();
            applied.kept = Some(keeper.keep(copy.as_fd(), &connection, &plan, &in_force, known));
        }
        Some(applied)
    }

    /// Those that lie behind it by now.
    fn phases(&self, connection: &Connection) -> Phases {
        match connection {
            Connection::Listening { .. } | Connection::Binding { .. } => Phases::of(&[Phase::Listen]),
            Connection::BindingUdp { .. } => Phases::of(&[Phase::BindDatagram]),
            Connection::Inbound { .. } => Phases::ACCEPTED,
            Connection::Outbound { .. } if self.state.is_some() => Phases::OUTBOUND,
            Connection::Outbound { .. } => Phases::of(&[Phase::Datagram]),
        }
    }

    /// Whether a setting still means something at this point of a socket's life.
    fn can_have(&self, setting: &Setting) -> bool {
        match (self.state, setting.key) {
            (None | Some(State::Listen), _) | (Some(State::SynSent), Key::SynRetries) => true,
            // It would not move the connection, but cut it off from its packets.
            (_, Key::Interface) => false,
            // What an accepted socket can have, any connection can.
            (_, key) => key.entry().phases.intersects(Phases::ACCEPTED),
        }
    }
}

/// What getsockopt answers when the setting is in force, by what it answers before.
fn read_back(setting: &Setting, before: Option<&Value>) -> Value {
    match (setting.key, &setting.value) {
        // tcp(7): the system's time in FIN_WAIT2, as a number.
        (Key::TimeWait, Value::Int(0)) => match before {
            Some(Value::Int(seconds @ 0..)) => Value::Int(*seconds),
            _ => setting.value.clone(),
        },
        // socket(7): the kernel doubles them.
        (Key::ReceiveBuffer | Key::SendBuffer, Value::Int(bytes)) => Value::Int(bytes.saturating_mul(2)),
        (_, value) => value.clone(),
    }
}

/// Whether the kernel has said yes and changed nothing, as it does where a program that is attached to the socket's control group
/// answers for it. Not of options whose value the kernel itself rounds or bounds.
fn is_held(setting: &Setting, before: Option<&Value>, after: &Value) -> bool {
    let is_taken_as_it_is = matches!(setting.key.entry().about().in_kernel, InKernel::Bpf { .. })
        && !matches!(setting.key, Key::ReceiveBuffer | Key::SendBuffer | Key::MaxSegment | Key::MaxPacingRate);
    is_taken_as_it_is && *after != read_back(setting, before)
}

fn name(setting: &Setting) -> String {
    match constants::option_name(setting.level, setting.name) {
        Some(name) => name.to_owned(),
        None => format!("level {} option {}", setting.level, setting.name),
    }
}

/// What the program has chosen itself, where only the rest is filled in.
fn leave_what_is_chosen(applied: &mut Applied, fd: i32, chosen: &[&Setting]) {
    for setting in chosen {
        match current::value(fd, setting).ok() {
            Some(current) if current == read_back(setting, Some(&current)) => applied.already.push(name(setting)),
            Some(_) => applied.left_to_the_program.push(setting.key.name()),
            None => {}
        }
    }
    applied.left_to_the_program.dedup();
}
