//! The one executor of both machines: an event goes in, and what the machine says is carried out, in that order, by who has the
//! hands for it. The sessions, `ulpm recover` and the goodbye at the target all go through `Driver::on`, and reach the process,
//! the journal and the other side in no other way.
//!
//! What was heard, what follows and what was carried out is told at level debug (`ULPM_LOG=ulpm::handover=debug`), so that a
//! trial can hold the two against each other. Nothing is formatted unless somebody listens.

use std::fmt::Debug;

/// A state machine of the hand-over.
pub trait Machine: Copy + Debug {
    /// What it hears of.
    type Event: Copy + Debug;
    /// What it wants done.
    type Action: Copy + Debug + 'static;
    /// Its side.
    const SIDE: &'static str;

    /// What follows an event.
    fn on(&mut self, event: Self::Event) -> &'static [Self::Action];

    /// What follows an action that could not be carried out.
    fn failed(action: Self::Action) -> After<Self::Event>;
}

/// All states and events of a machine from which anything follows.
pub fn transitions<M: Machine + PartialEq>(states: &[M], events: &[M::Event]) -> Vec<(M, M::Event)> {
    let pairs = states.iter().flat_map(|state| events.iter().map(move |event| (*state, *event)));
    let follows = |(state, event): &(M, M::Event)| {
        let mut machine = *state;
        !machine.on(*event).is_empty() || machine != *state
    };
    pairs.filter(follows).collect()
}

/// What follows an action that could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After<E> {
    /// The actions behind it.
    GoOn,
    /// Nothing: somebody goes on later from what is written.
    Stop,
    /// This, in the place of the actions behind it.
    Hear(E),
}

/// An action could not be carried out; why is known to who tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotDone;

/// Who can carry out what a machine says.
pub trait Hands<M: Machine> {
    /// The migration.
    fn id(&self) -> &str;

    /// Carries out one action. What comes of it is an event in the place of the actions behind it.
    fn carry_out(&mut self, action: M::Action) -> Result<Option<M::Event>, NotDone>;
}

/// A machine that nothing but its executor moves.
#[derive(Clone, Copy, Debug)]
pub struct Driver<M>(M);

impl<M: Machine> Driver<M> {
    /// In the given state.
    pub(crate) fn new(state: M) -> Self {
        Driver(state)
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> M {
        self.0
    }

    /// An event: carries out what follows, and what follows from that.
    pub(crate) fn on(&mut self, event: M::Event, hands: &mut dyn Hands<M>) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let state = self.0;
            let actions = self.0.on(event);
            tracing::debug!(side = M::SIDE, id = hands.id(), ?state, ?event, ?actions, next = ?self.0, "heard");
            for action in actions {
                let done = hands.carry_out(*action);
                tracing::debug!(side = M::SIDE, id = hands.id(), ?action, done = done.is_ok(), "carried out");
                let follows = match done {
                    Ok(Some(event)) => After::Hear(event),
                    Ok(None) => After::GoOn,
                    Err(NotDone) => M::failed(*action),
                };
                match follows {
                    After::GoOn => {}
                    After::Stop => return,
                    After::Hear(event) => {
                        next = Some(event);
                        break;
                    }
                }
            }
        }
    }
}
