//! What `hubctl explain` says of a request, compared with what became of it.

use http::Method;
use serde_json::Value;

use crate::{Scenario, Shot, shoot};

/// A request, as a test words it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `<cluster>/<workload>`.
    pub from: &'a str,
    /// The method.
    pub method: &'a str,
    /// The URL as the workload names it.
    pub url: &'a str,
    /// Each `name: value`.
    pub headers: &'a [&'a str],
}

impl Scenario {
    /// Makes a GET, and fails the test unless `hubctl explain` says what happened.
    pub async fn agrees(&self, from: &str, url: &str, headers: &[&str]) -> Shot {
        self.agrees_on(Asked { from, method: "GET", url, headers }).await
    }

    /// Makes a request, and fails the test unless `hubctl explain` says what happened.
    pub async fn agrees_on(&self, asked: Asked<'_>) -> Shot {
        let mut call = self.with(asked.from, asked.url, asked.headers);
        call.method = Method::from_bytes(asked.method.as_bytes()).expect("a method");
        let shot = shoot(&call).await;
        let explained = self.explain(asked).await;
        if let Err(why) = compare(&explained, &shot) {
            panic!("{asked:?}: {why}\nthe answer: {shot:?}\nexplained: {explained:#}");
        }
        shot
    }

    /// `hubctl explain -o json` of a request.
    pub async fn explain(&self, asked: Asked<'_>) -> Value {
        let mut arguments = vec!["-o", "json", "explain", "--from", asked.from, "--to", asked.url, "-X", asked.method];
        for header in asked.headers {
            arguments.extend(["-H", header]);
        }
        self.json(&arguments).await
    }
}

/// Whether an explanation fits what happened. Draws (weights, shares of faults) are made anew by the explanation: where
/// there are several destinations any of them fits.
fn compare(explained: &Value, shot: &Shot) -> Result<(), String> {
    let decision = &explained["decision"]["decision"];
    let outcome = &decision["outcome"];
    let same = |what: &str, status: &Value| match status.as_u64() == Some(u64::from(shot.status)) {
        true => Ok(()),
        false => Err(format!("the explanation is {what} {status}")),
    };
    if let Some(status) = decision["fault"]["abort"]["http"].as_u64() {
        return same("an abort with", &status.into());
    }
    match outcome["outcome"].as_str().unwrap_or_default() {
        "redirect" => same("a redirect with", &outcome["status"]),
        "direct" => same("a direct response with", &decision["rule"]["action"]["direct"]["status"]),
        "refuse" if matches!(shot.status, 0 | 404 | 502 | 503) => Ok(()),
        "refuse" => Err("the explanation is a refusal".to_owned()),
        "passthrough" => Ok(()),
        _ => forwarded(explained, shot),
    }
}

fn forwarded(explained: &Value, shot: &Shot) -> Result<(), String> {
    let decision = &explained["decision"]["decision"];
    let servers: Vec<(&String, &Value)> = explained["servers"].as_object().into_iter().flatten().collect();
    let refuses = |answer: &Value| {
        ["transport", "authorization"].iter().any(|stage| answer[stage]["outcome"].get("Err").is_some())
    };
    let several = decision["rule"]["action"]["route"].as_array().is_some_and(|route| route.len() > 1);
    let refused = servers.iter().filter(|(_, answer)| refuses(answer)).count();
    if refused > 0 && matches!(shot.status, 0 | 401 | 403 | 503) {
        return Ok(());
    }
    if matches!(shot.status, 401 | 403) {
        return Err("the explanation is that every server lets it in".to_owned());
    }
    if !servers.is_empty() && refused == servers.len() {
        return Err("the explanation is that no server lets it in".to_owned());
    }
    let who = &shot.answer.whoami;
    let tiers = decision["outcome"]["tiers"].as_array().into_iter().flatten();
    let mut targets = tiers.flat_map(|tier| tier["targets"].as_array().into_iter().flatten());
    let is = |target: &Value| match target["target"].as_str() {
        Some("local") => target["endpoint"].as_str() == Some(&who.pod),
        Some("remote") => target["cluster"].as_str() == Some(&who.cluster),
        _ => true,
    };
    // Who did not say who it is cannot be looked for.
    if who.pod.is_empty() || several || targets.any(is) {
        return Ok(());
    }
    Err(format!("the explanation does not name {}/{}", who.cluster, who.pod))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_that_says_something_else_is_found_out() {
        let shot = |status: u16, pod: &str| {
            let mut shot = Shot {
                status,
                headers: http::HeaderMap::new(),
                answer: fleet::echo::Answer::default(),
                body: String::new(),
                took: Duration::ZERO,
            };
            pod.clone_into(&mut shot.answer.whoami.pod);
            shot
        };
        let forward = json!({"outcome": {"outcome": "forward", "tiers": [{"targets": [{"target": "local", "endpoint": "a-1"}]}]}});
        let fine = json!({"east/a-1": {"authorization": {"outcome": {"Ok": null}}}});
        let denies = json!({"east/a-1": {"authorization": {"outcome": {"Err": "policy"}}}});
        let abort = json!({"outcome": {"outcome": "forward", "tiers": []}, "fault": {"abort": {"http": 500}}});
        let moved = json!({"outcome": {"outcome": "redirect", "status": 301, "location": "x"}});
        for (decision, servers, shot, fits) in [
            (&forward, &fine, shot(200, "a-1"), true),
            (&forward, &fine, shot(200, "b-1"), false),
            (&forward, &fine, shot(403, ""), false),
            (&forward, &denies, shot(403, ""), true),
            (&forward, &denies, shot(200, "a-1"), false),
            (&abort, &fine, shot(500, ""), true),
            (&abort, &fine, shot(200, "a-1"), false),
            (&moved, &fine, shot(301, ""), true),
            (&moved, &fine, shot(302, ""), false),
            (&json!({"outcome": {"outcome": "refuse"}}), &fine, shot(200, "a-1"), false),
        ] {
            let explained = json!({"decision": {"decision": decision}, "servers": servers});
            assert_eq!(compare(&explained, &shot).is_ok(), fits, "{explained} {shot:?}");
        }
    }
}
