//! How an error is told to a person: what failed, why, and what to do about it.

use fleet::Hint;
use hub_client::HubError;

/// `error: <what>: <why>` and, if some cause carries one, `hint: <way out>` on a line of its own.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut hint = None;
    for cause in error.chain() {
        if let Some(hinted) = cause.downcast_ref::<Hint>() {
            hint.get_or_insert_with(|| hinted.hint.clone());
        }
        let mut text = cause.to_string();
        // Libraries below append a last line `hint: …` to their message.
        if let Some((message, appended)) = text.clone().rsplit_once("\nhint: ") {
            hint.get_or_insert_with(|| appended.to_owned());
            text = message.to_owned();
        }
        if let Some(HubError::Unreachable { source, .. }) = cause.downcast_ref::<HubError>() {
            // What lies below says the same again in the words of the transport.
            causes.extend([text, source.message().to_owned()]);
            break;
        }
        // A transparent error repeats its cause.
        if causes.last() != Some(&text) {
            causes.push(text);
        }
    }
    let mut told = format!("error: {}", causes.join(": "));
    if let Some(hint) = hint {
        told.push_str(&format!("\nhint: {hint}"));
    }
    told
}

/// Why one hub node did not answer, on one line.
pub(crate) fn hub_node(error: &HubError) -> String {
    let told = match error {
        HubError::Unreachable { source, .. } => format!("unreachable: {}", source.message()),
        other => other.to_string(),
    };
    told.lines().next().unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_stands_on_its_own_line_whoever_gave_it() {
        let error = Hint::error("no fleet runs", "start one").context("cannot check");
        assert_eq!(describe(&error), "error: cannot check: no fleet runs\nhint: start one");
        let error = anyhow::anyhow!("the hub is down\nhint: start it");
        assert_eq!(describe(&error), "error: the hub is down\nhint: start it");
    }
}
