//! isthmus-identity
