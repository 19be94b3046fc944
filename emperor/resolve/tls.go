package resolve

import (
	"slices"

	"liege/vassal"
)

// keyPair makes the paths of a certificate absolute. Nothing of it is shown to
// the vassal: the bytes are handed over.
func (r *resolver) keyPair(p *vassal.KeyPair) *vassal.KeyPair {
	if p == nil {
		return nil
	}
	out := *p
	out.Cert, out.Key, out.ClientCA = r.abs(p.Cert), r.abs(p.Key), r.abs(p.ClientCA)
	out.At = r.at(p.At)
	return &out
}

// tls is the same for what the listeners have in common.
func (r *resolver) tls(t *vassal.TLS) *vassal.TLS {
	if t == nil {
		return nil
	}
	out := *t
	out.Dir, out.DirAt = r.abs(t.Dir), r.at(t.DirAt)
	out.Names = slices.Clone(t.Names)
	for i := range out.Names {
		out.Names[i].KeyPair = *r.keyPair(&t.Names[i].KeyPair)
	}
	return &out
}

// sameFiles reports whether a and b name the same certificate.
func sameFiles(a, b *vassal.KeyPair) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Cert == b.Cert && a.Key == b.Key && a.ClientCA == b.ClientCA && a.ClientMust == b.ClientMust
}
