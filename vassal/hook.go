package vassal

import "slices"

// Hook is one action of one phase. It is data: package stage runs those of a
// start, the core those of the application's life.
type Hook struct {
	Phase   Phase  `json:"phase"`
	Action  string `json:"action"`            // "exec", "mount", …
	Arg     string `json:"arg"`               // all after the first colon
	Private bool   `json:"private,omitempty"` // written with "!": Arg is never shown
	Time    int    `json:"time,omitempty"`    // seconds that it may take; 0: as all hooks
	File    string `json:"file,omitempty"`    // of Touch: the file that is watched
	Key     string `json:"key,omitempty"`     // the option that it was written with
	At      Origin `json:"at"`
}

// Option is the option that h was written with.
func (h *Hook) Option() string {
	if h.Key != "" {
		return h.Key
	}
	return "hook-" + string(h.Phase)
}

// Phase is when a hook runs, named as in its option: hook-as-root.
type Phase string

// The phases, in the order in which they come.
const (
	EmperorStart   Phase = "emperor-start"       // in emperor.ini
	OnDemand       Phase = "as-on-demand-vassal" // it goes to sleep
	OnConfig       Phase = "as-on-config-vassal" // its file changed in its sleep
	BeforeVassal   Phase = "as-emperor-before-vassal"
	AsEmperor      Phase = "as-emperor"
	BeforeDrop     Phase = "as-vassal-before-drop"
	AsVassal       Phase = "as-vassal"
	Asap           Phase = "asap"
	PreJail        Phase = "pre-jail"
	InJail         Phase = "in-jail"
	PostJail       Phase = "post-jail"
	AsRoot         Phase = "as-root"
	AsUser         Phase = "as-user"
	PreApp         Phase = "pre-app"
	PostApp        Phase = "post-app"
	MasterStart    Phase = "master-start"
	AsGateway      Phase = "as-gateway" // with a router: http or https
	PostFork       Phase = "post-fork"
	Accepting      Phase = "accepting"
	AcceptingOnce  Phase = "accepting-once"
	Accepting1     Phase = "accepting1"
	Accepting1Once Phase = "accepting1-once"
	AsMule         Phase = "as-mule"
	Touched        Phase = "touch"
	EmperorLost    Phase = "emperor-lost"
	EmperorReload  Phase = "emperor-reload"
	EmperorStop    Phase = "emperor-stop"
	AsUserAtexit   Phase = "as-user-atexit"
	EmperorEnd     Phase = "emperor-end" // hook-emperor-stop in emperor.ini
)

// Place is where the hooks of a phase run, and with whose rights.
type Place uint8

// The places, in the order in which a start passes them.
const (
	Nowhere   Place = iota
	OfEmperor       // root, in the Emperor's own namespaces, for no vassal
	AtEmperor       // root, there too, for a vassal
	AtHost          // root, in the vassal's namespaces, where the host's files still are
	AtRoot          // root of the sandbox
	AtUser          // the vassal's user, before the core
	AtCore          // the vassal's user, by the core
)

// phase is what is known of a Phase.
type phase struct {
	name    Phase
	place   Place
	ignored bool // a failure ends nothing
}

// phases are all, in the order of Phases.
var phases = []phase{
	{EmperorStart, OfEmperor, false},
	{OnDemand, AtEmperor, false}, {OnConfig, AtEmperor, false},
	{BeforeVassal, AtEmperor, false}, {AsEmperor, AtEmperor, true},
	{BeforeDrop, AtHost, false}, {AsVassal, AtHost, false}, {Asap, AtHost, false}, {PreJail, AtHost, false},
	{InJail, AtRoot, false}, {PostJail, AtRoot, false}, {AsRoot, AtRoot, false},
	{AsUser, AtUser, false},
	{PreApp, AtCore, false}, {PostApp, AtCore, false}, {MasterStart, AtCore, false}, {AsGateway, AtCore, false}, {PostFork, AtCore, false},
	{Accepting, AtCore, false}, {AcceptingOnce, AtCore, false}, {Accepting1, AtCore, false}, {Accepting1Once, AtCore, false},
	{AsMule, AtCore, false},
	{Touched, AtCore, true}, {EmperorLost, AtCore, true}, {EmperorReload, AtCore, true}, {EmperorStop, AtCore, true},
	{AsUserAtexit, AtCore, true},
	{EmperorEnd, OfEmperor, true},
}

// Phases returns all phases in the order in which they come.
func Phases() []Phase {
	var out []Phase
	for _, p := range phases {
		out = append(out, p.name)
	}
	return out
}

func (p Phase) index() int {
	return slices.IndexFunc(phases, func(x phase) bool { return x.name == p })
}

// Place is where hooks of p run; Nowhere if there is no such phase.
func (p Phase) Place() Place {
	if i := p.index(); i >= 0 {
		return phases[i].place
	}
	return Nowhere
}

// Fatal reports whether a hook of p that fails ends what it is part of: the
// start, or the worker.
func (p Phase) Fatal() bool {
	i := p.index()
	return i >= 0 && !phases[i].ignored
}

// Compare is less than 0 if p comes before q, for slices.SortFunc.
func (p Phase) Compare(q Phase) int { return p.index() - q.index() }
