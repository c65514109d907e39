//! isthmus-fleet
