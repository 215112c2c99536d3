//! What was measured in a migration: phases, rounds, freeze parts.
