//! What the sidecar of a server would say to the request.

use serde_json::Value;

/// A server and its answer to `/debug/authorize`.
#[derive(Debug)]
pub(in crate::commands::explain) struct Server {
    /// `server`, or `gateway` for the one that was asked itself.
    pub(in crate::commands::explain) role: &'static str,
    /// `<cluster>/<pod>`.
    pub(in crate::commands::explain) name: String,
    /// Its answer, or why there is none.
    pub(in crate::commands::explain) answer: Result<Value, String>,
}

impl Server {
    /// As data.
    pub(in crate::commands::explain) fn document(&self) -> Value {
        match &self.answer {
            Ok(answer) => answer.clone(),
            Err(error) => serde_json::json!({"error": error}),
        }
    }

    pub(super) fn tell(&self) -> String {
        let answer = match &self.answer {
            Ok(answer) if answer.get("error").is_none() => answer,
            Ok(answer) => return format!("{:<9} {} does not say: {}\n", self.role, self.name, answer["error"]),
            Err(error) => return format!("{:<9} {} does not say: {error}\n", self.role, self.name),
        };
        let denial = ["transport", "authorization"].iter().find_map(|stage| answer[stage]["outcome"]["Err"].as_str());
        let verdict = match denial {
            Some(denial) => format!("refuses: {denial}"),
            None => "lets it in".to_owned(),
        };
        let mut text = format!("{:<9} {} (revision {}) {verdict}\n", self.role, self.name, answer["revision"]);
        let texts = |name: &str| -> Vec<String> {
            answer[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        text.extend(texts("because").iter().map(|sentence| format!("  - {sentence}\n")));
        let asked = answer["authorization"]["ask"].as_array().into_iter().flatten();
        text.extend(asked.map(|authorizer| format!("  - the provider {} is asked first\n", authorizer["name"])));
        for token in answer["tokens"].as_array().into_iter().flatten() {
            text.push_str(&format!(
                "  - a token of {} is verified ({})\n",
                plain(&token["issuer"]),
                plain(&token["rule"])
            ));
        }
        text.extend(texts("counted").iter().map(|limit| format!("  - counted by {limit}\n")));
        text
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
