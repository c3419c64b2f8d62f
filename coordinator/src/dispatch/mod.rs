//! Who holds what: leases, credits, attempts, affinity.
//!
//! [`Dispatch`] is a pure function of its state, an event and the time. [`run`](DispatchService::run)
//! owns it: it feeds it what the service hears and the clock says, and carries its effects out,
//! through the store before anything leaves for a worker.

mod calls;
mod endings;
mod event;
mod handle;
mod index;
mod item;
mod loads;
mod queue;
mod rules;
mod schedule;
mod standing;
mod state;
mod task;
#[cfg(test)]
mod tests;
mod worker;

pub use event::{Effect, Event, Kind, Limits, Task};
pub use handle::{Batch, DispatchError, DispatchHandle, Session, SessionEvent};
pub use state::Dispatch;
pub use task::DispatchService;
