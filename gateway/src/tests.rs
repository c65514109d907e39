//! Two gateways (or more) over real sockets, with views and certificates made here.

mod drain;
mod flows;
mod health;
mod refusals;
pub(crate) mod world;
