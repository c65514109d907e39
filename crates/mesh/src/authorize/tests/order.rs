//! Which action wins, what is asked first, what a dry run says.

use super::{check_all, reasons};

#[test]
fn custom_comes_before_deny_and_deny_before_allow() {
    check_all(&[
        ("", "", "allow"),
        ("ALLOW any", "", "allow"),
        ("ALLOW", "", "deny"),
        ("DENY any", "", "deny"),
        ("DENY", "", "allow"),
        ("AUDIT any", "", "allow audit"),
        ("AUDIT", "", "allow"),
        ("CUSTOM:opa any", "", "allow ask opa"),
        ("CUSTOM:opa", "", "allow"),
        ("ALLOW any\nDENY any", "", "deny"),
        ("DENY any\nALLOW any", "", "deny"),
        ("ALLOW to methods=GET\nALLOW to methods=POST", "method=POST", "allow"),
        ("ALLOW to methods=GET\nALLOW to methods=POST", "method=PUT", "deny"),
        ("ALLOW\nALLOW any", "", "allow"),
        ("ALLOW any\nAUDIT any", "", "allow audit"),
        ("DENY any\nAUDIT any", "", "deny audit"),
        ("AUDIT to methods=PUT\nAUDIT to methods=GET", "", "allow audit"),
        ("CUSTOM:opa any\nDENY any", "", "deny ask opa"),
        ("CUSTOM:opa any\nALLOW", "", "deny ask opa"),
        ("CUSTOM:opa to paths=/admin*", "path=/admin/x", "allow ask opa"),
        ("CUSTOM:opa to paths=/admin*", "path=/x", "allow"),
        ("CUSTOM:opa to paths=/a*\nCUSTOM:opa to paths=/ab*", "path=/ab", "allow ask opa"),
        ("CUSTOM:b any\nCUSTOM:a any", "", "allow ask a ask b"),
        ("CUSTOM:b any\nCUSTOM:a to methods=PUT", "", "allow ask b"),
        ("DENY to methods=PUT; to methods=GET", "", "deny"),
        ("ALLOW to methods=PUT; to methods=GET", "", "allow"),
    ]);
}

#[test]
fn a_dry_run_changes_nothing() {
    check_all(&[
        ("DENY(dry) any", "", "allow"),
        ("ALLOW(dry)", "", "allow"),
        ("ALLOW(dry) to methods=PUT", "", "allow"),
        ("ALLOW(dry) any\nALLOW to methods=PUT", "", "deny"),
        ("ALLOW(dry)\nALLOW to methods=GET", "", "allow"),
        ("AUDIT(dry) any", "", "allow"),
        ("CUSTOM:opa(dry) any", "", "allow"),
        ("DENY(dry) any\nDENY to methods=PUT", "method=PUT", "deny"),
        ("CUSTOM:opa(dry) any\nCUSTOM:opa any", "", "allow ask opa"),
    ]);
}

#[test]
fn reasons_name_the_rule_and_what_a_dry_run_would_have_done() {
    let cases: [(&str, &str, &[&str]); 9] = [
        ("", "", &["no policy says otherwise"]),
        ("DENY any", "", &["AuthorizationPolicy default/p0 spec.rules[0]", "denied: policy"]),
        ("ALLOW to methods=PUT; any", "", &["AuthorizationPolicy default/p0 spec.rules[1]"]),
        ("ALLOW to methods=PUT", "", &["no rule of AuthorizationPolicy default/p0 matches", "denied: policy"]),
        (
            "DENY(dry) any",
            "",
            &["dry run: AuthorizationPolicy default/p0 spec.rules[0] would deny", "no policy says otherwise"],
        ),
        (
            "ALLOW(dry) any",
            "",
            &["dry run: AuthorizationPolicy default/p0 spec.rules[0] would allow", "no policy says otherwise"],
        ),
        (
            "ALLOW(dry) to methods=PUT",
            "",
            &["dry run: AuthorizationPolicy default/p0 would deny: no rule of it matches", "no policy says otherwise"],
        ),
        (
            "CUSTOM:opa(dry) any",
            "",
            &["dry run: AuthorizationPolicy default/p0 spec.rules[0] would ask", "no policy says otherwise"],
        ),
        (
            "AUDIT any\nALLOW any",
            "",
            &["AuthorizationPolicy default/p0 spec.rules[0]", "AuthorizationPolicy default/p1 spec.rules[0]"],
        ),
    ];
    for (policies, request, expected) in cases {
        assert_eq!(reasons(policies, request), expected, "{policies}");
    }
}
