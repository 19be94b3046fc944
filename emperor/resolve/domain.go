package resolve

import (
	"errors"
	"fmt"
	"strings"

	"liege/selinux"
	"liege/vassal"
)

// SELinux is what the operator and the loaded policy say about domains. The
// zero value: nobody is asked, and a file that names a context is an error.
type SELinux struct {
	// Enter returns the canonical form of a context that a vassal may enter,
	// by the exec of its core or by setcon; with an empty context that of
	// vassals which name none, empty if they have none. The error may wrap
	// selinux.ErrOff, or selinux.ErrPermissive with a context that is good.
	Enter func(context string, byExec bool) (string, error)
	// Warn makes of "off" and "permissive" a warning: [emperor] selinux = warn.
	Warn bool
	// Template is the context of vassals that name none: [emperor]
	// context-template, with %n for the vassal's name and %c for a pair of
	// categories that no other user has. Empty: none.
	Template   string
	TemplateAt vassal.Origin
	Categories func(uid int) (string, error) // for %c
	// Label is the context of a host path, and Allows what the policy lets a
	// context do with it; nil: files' labels are not looked at.
	Label  func(path string) (string, error)
	Allows func(from, to, class, permission string) (bool, error)
}

// wish is the context that a vassal is to run in, and who says so.
type wish struct {
	context string
	byExec  bool
	at      vassal.Origin
	key     string
}

// context asks the loaded policy about the vassal's SELinux context.
func (r *resolver) context() {
	w, err := r.wish()
	if err != nil {
		r.fail(vassal.CodeNoSELinux, w.at, w.key, err.Error(), "")
		return
	}
	host := r.host.SELinux
	if host.Enter == nil {
		if w.context != "" {
			r.fail(vassal.CodeNoSELinux, w.at, w.key, "SELinux contexts are not known here", "")
		}
		return
	}
	canonical, err := host.Enter(w.context, w.byExec)
	weak := errors.Is(err, selinux.ErrOff) || errors.Is(err, selinux.ErrPermissive)
	switch {
	case err != nil && w.context == "":
		r.fail(vassal.CodeNoSELinux, vassal.Origin{}, "", fmt.Sprintf("the SELinux domain of vassals that name none: %v", err), "")
		return
	case weak && host.Warn:
		how := "it runs without a domain"
		if canonical != "" {
			how = "its domain keeps nothing from it"
		}
		r.warn(vassal.CodeNoSELinux, w.at, w.key, fmt.Sprintf("%s: %v; %s, as [emperor] selinux = warn allows", w.context, err, how), "")
	case weak:
		r.fail(vassal.CodeNoSELinux, w.at, w.key, fmt.Sprintf("%s: %v", w.context, err), "setenforce 1; or [emperor] selinux = warn, which starts it without that protection")
		return
	case err != nil:
		r.fail(vassal.CodeNoSELinux, w.at, w.key, fmt.Sprintf("%s: %v", w.context, err), r.moduleHint(w))
		return
	}
	p := &r.res.Plan
	p.Line = r.at(w.at)
	p.Context, p.ByExec = canonical, canonical != "" && w.byExec
	r.labels()
}

// wish finds out which context the vassal is to have: its own line's, else the
// operator's template's, else none.
func (r *resolver) wish() (wish, error) {
	id, host := r.cfg.Ident, r.host.SELinux
	switch {
	case id.ContextByHook:
		return wish{id.Context, false, id.ContextAt, "hook-as-user"}, nil
	case id.Context != "":
		return wish{id.Context, true, id.ContextAt, "selinux-context"}, nil
	case host.Template == "" || r.host.Caller != nil:
		return wish{byExec: true}, nil
	case r.res.Problems.Failed(): // it does not start: no categories for a user that is perhaps none
		return wish{byExec: true}, nil
	}
	w := wish{byExec: true, at: host.TemplateAt, key: "context-template"}
	var err error
	w.context, err = r.fromTemplate(host.Template)
	return w, err
}

// fromTemplate fills in [emperor] context-template.
func (r *resolver) fromTemplate(t string) (string, error) {
	name := string(r.cfg.Name)
	if strings.Contains(t, "%n") && strings.Contains(name, ".") {
		return "", fmt.Errorf("%s: no SELinux type can be named after %s, which has a dot; give the file another name, or a context of its own", t, name)
	}
	pair := ""
	if strings.Contains(t, "%c") {
		if r.host.SELinux.Categories == nil {
			return "", fmt.Errorf("%s: categories are allotted by the Emperor only", t)
		}
		var err error
		if pair, err = r.host.SELinux.Categories(r.res.UID); err != nil {
			return "", fmt.Errorf("%s: categories of uid %d: %w", t, r.res.UID, err)
		}
	}
	return strings.NewReplacer("%n", name, "%c", pair, "%%", "%").Replace(t), nil
}

// moduleHint is the command that makes a module for a type of Liege's form.
func (r *resolver) moduleHint(w wish) string {
	id, ok := strings.CutPrefix(strings.TrimSuffix(selinux.Type(w.context), "_t"), "webapp_")
	if !ok || id == "" {
		return ""
	}
	return "liege policy new " + id + ", then liege policy install " + id
}

// labels compares what the file names with what the domain may use: content
// that was not labelled is the usual reason why an app in a domain does not
// come up.
func (r *resolver) labels() {
	host, context := r.host.SELinux, r.res.Plan.Context
	if host.Label == nil || host.Allows == nil || context == "" {
		return
	}
	for _, b := range r.res.Binds {
		label, err := host.Label(b.Source)
		if err != nil {
			continue // the bind's own problem, or a file system without labels
		}
		class, permission := "file", "read"
		if b.Dir {
			class, permission = "dir", "search"
		}
		if ok, err := host.Allows(context, label, class, permission); err == nil && !ok {
			r.warn(vassal.CodeNotVisible, b.At, b.Why, fmt.Sprintf("%s is labelled %s, which %s may not %s", b.Source, selinux.Type(label), selinux.Type(context), permission),
				"restorecon -R "+b.Source+"; if that changes nothing, liege policy new with --path "+b.Source)
		}
	}
}
