//! What the tests over whole fleets share.
