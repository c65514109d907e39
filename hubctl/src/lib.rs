//! hubctl
