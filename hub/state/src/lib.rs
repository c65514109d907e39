//! isthmus-hub-state
