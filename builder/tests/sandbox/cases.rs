//! The cases. Each has its own process and root filesystem.

mod identity;
mod lifetime;
mod surroundings;

use crate::world::World;

/// Whom a case is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Everyone,
    User,
    /// A user to whom /etc/subuid gives nothing.
    UserWithoutIds,
    /// A user who sees a partly masked /proc, as in a Docker container.
    UserBehindMasks,
}

pub struct Case {
    pub name: &'static str,
    pub who: Who,
    pub run: fn(&World),
}

macro_rules! cases {
    ($($part:ident::$name:ident: $who:ident,)*) => {
        pub const CASES: &[Case] =
            &[$(Case { name: stringify!($name), who: Who::$who, run: $part::$name }),*];
    };
}

cases! {
    identity::ids: Everyone,
    identity::ids_beyond_the_map: User,
    identity::capabilities: Everyone,
    identity::all_capabilities: Everyone,
    lifetime::init_leads_nowhere: Everyone,
    lifetime::everything_can_be_listed: Everyone,
    lifetime::orphans_are_reaped: Everyone,
    lifetime::exits_and_signals: Everyone,
    lifetime::programs_that_cannot_run: Everyone,
    surroundings::what_a_command_finds: Everyone,
    surroundings::devices: Everyone,
    surroundings::proc_and_sys: Everyone,
    surroundings::no_network: Everyone,
    lifetime::nothing_is_left_behind: Everyone,
    surroundings::a_part_of_a_bind_stays_inside: Everyone,
    surroundings::mounts_are_hidden: Everyone,
    surroundings::extra_mounts: Everyone,
    surroundings::mount_targets_stay_inside: Everyone,
    surroundings::failures_of_the_set_up: Everyone,
    lifetime::signals_are_passed_on: Everyone,
    lifetime::the_end_of_init_is_noticed: Everyone,
    lifetime::dropping_kills: Everyone,
    lifetime::killing_mica_kills_all: Everyone,
    lifetime::streams_are_passed_on: Everyone,
    lifetime::many_at_once: Everyone,
    lifetime::a_terminal: Everyone,
    identity::no_subordinate_ids: UserWithoutIds,
    surroundings::a_masked_proc: UserBehindMasks,
}
