//! A stable name for each kind of problem, for `sockopt check --json` and `--allow`. A name never changes its meaning.

use std::fmt;

/// The kinds, by severity and then by subject.
macro_rules! codes {
    ($($name:ident $severity:ident $code:literal $meaning:literal)*) => {
        /// What kind of problem it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name: lower case and hyphens.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it means, in a line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// Whether problems of this kind refuse the configuration.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    Syntax Error "syntax" "the text is not TOML"
    DuplicateKey Error "duplicate-key" "a key occurs twice in one table"
    UnknownKey Error "unknown-key" "no key, table or condition has this name"
    WrongType Error "wrong-type" "the value has another type than the key takes"
    OutOfRange Error "out-of-range" "the kernel does not take this value"
    MissingUnit Error "missing-unit" "a duration or a size has no unit, or an unknown one"
    BadAddress Error "bad-address" "an address, a network, a host name or a port is malformed"
    EmptyCondition Error "empty-condition" "a condition is empty, so that the rule could never match"
    BadPattern Error "bad-pattern" "an entry of process or command that could never match"
    MisplacedCondition Error "misplaced-condition" "a condition where it has no meaning, as `to` in `[defaults]`"
    BothDirections Error "both-directions" "one rule has `to` as well as `listen` or `from`"
    ConflictingKeys Error "conflicting-keys" "two keys of one table set the same kernel option"
    NotHere Error "not-here" "an option that this rule's sockets cannot have"
    Removed Error "removed" "a value that has been replaced by another key"
    BadRaw Error "bad-raw" "an entry of `raw` is incomplete or malformed"
    UnknownVariable Warning "unknown-variable" "no environment variable of this name is read"
    BadSwitch Warning "bad-switch" "SOCKOPT_LOG or a switch has an unknown value"
    UselessVariable Warning "useless-variable" "a variable has no effect without another one"
    DataUnguarded Advice "data-unguarded" "keepalive alone: data in flight is sent again for minutes"
    IdleUnguarded Advice "idle-unguarded" "user_timeout alone: waiting for an answer never ends"
    SlowKeepalive Advice "slow-keepalive" "keepalive without time: the default applies, two hours"
    OneProbe Advice "one-probe" "a single lost probe ends a living connection"
    OtherKeepalive Advice "other-keepalive" "another keepalive in place of dead_peer_timeout's"
    UselessProbes Advice "useless-probes" "user_timeout decides, and not the number of probes"
    ShortForBulk Advice "short-for-bulk" "a short user_timeout ends a transfer to a slow reader"
    TimeWaitUnneeded Advice "time-wait-unneeded" "time_wait = false together with linger = \"reset\""
    NoTimeWait Advice "no-time-wait" "time_wait = false: what TIME_WAIT protects against"
    RawReplaces Advice "raw-replaces" "raw sets the option of another key again"
    BlockingClose Advice "blocking-close" "linger with a time blocks close"
    LatePort Advice "late-port" "local_ports_late hides the port after a bind to port 0"
    AfterBind Advice "after-bind" "raw sets an option of bind after it"
    ServerSpeaksFirst Advice "server-first" "fastopen: clients hang where the server speaks first"
    LateHandshake Advice "late-handshake" "quickack: late handshakes where the server speaks first"
    ResetsReplies Advice "resets-replies" "linger = \"reset\" on accepted connections loses replies"
    FillBesideOther Advice "fill-beside-other" "user_timeout is set beside the program's own keepalive"
    FillUnknown Advice "fill-unknown" "this kernel does not tell who has set a buffer"
    NeedsCapability Advice "needs-capability" "this option needs a capability"
    UnknownAlgorithm Advice "unknown-algorithm" "this kernel has no such congestion control"
    TakesFromOther Advice "takes-from-other" "a rule without dead_peer_timeout hides one that has it"
    NeverMatches Advice "never-matches" "earlier rules cover everything that this one matches"
    NotCompared Advice "not-compared" "too many rules to find those that can never match"
}

/// How serious a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is not taken.
    Error,
    /// It is taken, but probably not what was meant.
    Warning,
    /// It is taken, and does less or more than one might think.
    Advice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Advice => "advice",
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Code;

    #[test]
    fn names_are_told_apart() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        }
    }
}
