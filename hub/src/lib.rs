//! isthmus-hub
