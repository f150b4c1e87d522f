//! From a Dockerfile to an image.
//!
//! Data flows one way: a [`dockerfile`] is parsed to instructions, [`plan`] evaluates them to a build [`graph`],
//! the [`solver`] takes each step from the [`cache`] or executes it by [`op`], and [`build`] writes the image.
//!
//! - [`dockerfile`], [`ignore`], [`glob`]: the languages that users write.
//! - [`lint`]: what a Dockerfile better should not do; [`outline`]: what it offers.
//! - [`context`], [`tree`]: where COPY and ADD take files from.
//! - [`remote`], [`http`], [`url`]: files from servers and repositories.
//! - [`registry`], [`pull`], [`push`], [`mod@copy`]: images in registries, and how they come and go.
//! - [`ssh`]: agents that steps and Git reach.
//! - [`rootfs`], [`sandbox`]: what a command runs on, and in.
//! - [`ledger`]: what is written down of each build; [`why`]: why steps were executed again.
//! - [`look`]: what is in an image, how it came there, and what is stored in vain.
//! - [`image`], [`mod@reference`], [`archive`], [`import`], [`commit`]: images, their names, and how they come and go;
//!   [`compress`] for the way out.
//!
//! Nothing here prints or reads arguments: progress comes as [`event`]s, errors as values.

pub mod archive;
pub mod build;
pub mod cache;
pub mod commit;
pub mod compress;
pub mod context;
pub mod copy;
pub mod dockerfile;
pub mod epoch;
pub mod event;
pub mod export;
pub mod fold;
pub mod glob;
pub mod graph;
pub mod http;
pub mod ignore;
pub mod image;
pub mod import;
pub mod lazy;
pub mod leak;
pub mod ledger;
pub mod lint;
pub mod look;
pub mod op;
pub mod origin;
pub mod outline;
mod parallel;
pub mod plan;
pub mod product;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registry;
pub mod remote;
pub mod rootfs;
pub mod sandbox;
pub mod solver;
mod squash;
pub mod ssh;
pub mod tree;
pub mod url;
pub mod why;
