//! Conversions between wire messages and `mesh` types; nothing else.
