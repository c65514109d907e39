//! isthmus-telemetry
