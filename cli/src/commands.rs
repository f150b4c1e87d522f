//! The commands, one file each: `Args` says what it takes, `run` does it.

pub mod build;
pub mod cat;
pub mod commit;
pub mod cp;
pub mod df;
pub mod diff;
pub mod doctor;
pub mod fsck;
pub mod history;
pub mod images;
pub mod import;
pub mod inspect;
pub mod load;
pub mod ls;
pub mod mount;
pub mod mounts;
pub mod prune;
pub mod rmi;
pub mod run;
pub mod save;
pub mod tag;
pub mod umount;
pub mod upper;
pub mod version;
