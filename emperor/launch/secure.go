package launch

import (
	"encoding/json"
	"slices"

	"liege/emperor/expand"
	"liege/emperor/resolve"
	"liege/vassal"
)

// secured is what a holding generation must know to speak TLS where a vassal
// did: which of its listeners do, where the certificates are, and as whom they
// are read. It is kept while the vassal sleeps, and on disk for a later Emperor,
// whose vassals may have no file that can be used.
type secured struct {
	File     string            `json:"file"`
	Operator bool              `json:"operator,omitempty"`
	UID      int               `json:"uid"`
	GID      int               `json:"gid"`
	Groups   []int             `json:"groups,omitempty"`
	Listen   []vassal.Listener `json:"listen"`
	TLS      *vassal.TLS       `json:"tls,omitempty"`
}

// maxSecure bounds it on disk, in bytes, well below what a record may have. A
// file with so many names (sni) is held without them after its Emperor was killed.
const maxSecure = 256 << 10

// secured is nil where nothing speaks TLS.
func (p *prepared) secured() *secured {
	if p == nil || !(&start{p: p}).app().SpeaksTLS() {
		return nil
	}
	r := p.Result
	k := &secured{File: p.Config.File, Operator: p.Config.Trust.Operator, UID: r.UID, GID: r.GID, TLS: r.App.TLS}
	for _, g := range r.Groups {
		k.Groups = append(k.Groups, g.GID)
	}
	for _, l := range r.Listen {
		if l.TLS != nil {
			k.Listen = append(k.Listen, l)
		}
	}
	return k
}

// prepared is the least that Hold makes do with; nil for nil.
func (k *secured) prepared(l *launcher) *prepared {
	if k == nil {
		return nil
	}
	p := &prepared{hup: &l.hup, Expanded: expand.Expanded{
		Config: vassal.Config{Name: l.name, File: k.File, Trust: vassal.Trust{Operator: k.Operator, UID: k.UID, GID: k.GID}},
		Result: &resolve.Result{UID: k.UID, GID: k.GID, Listen: k.Listen, App: vassal.App{TLS: k.TLS}},
	}}
	for _, g := range k.Groups {
		p.Result.Groups = append(p.Result.Groups, resolve.Group{GID: g})
	}
	return p
}

// secure is what of p goes to disk; nil: nothing.
func (p *prepared) secure() json.RawMessage {
	k := p.secured()
	if k == nil {
		return nil
	}
	text, err := json.Marshal(k)
	if len(text) > maxSecure {
		k.TLS = nil
		text, err = json.Marshal(k)
	}
	if err != nil || len(text) > maxSecure {
		return nil
	}
	return text
}

// recall takes over what an earlier Emperor wrote with secure, unless something
// newer is known.
func (l *launcher) recall(text json.RawMessage) {
	if len(text) == 0 || l.served.Load() != nil {
		return
	}
	var k secured
	if err := json.Unmarshal(text, &k); err != nil || len(k.Listen) == 0 || slices.ContainsFunc(k.Listen, func(l vassal.Listener) bool { return l.TLS == nil }) {
		l.host.Log.Warn("what a record says of https cannot be believed", "vassal", l.name, "err", err)
		return
	}
	l.served.Store(k.prepared(l))
}
