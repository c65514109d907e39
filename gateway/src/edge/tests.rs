//! A gateway of the edge over real sockets.
