package vassal

// A KeyPair names the files of a certificate and what is asked of the clients
// that meet it. Paths are the host's: the core opens none of them, it gets
// their bytes (CertFiles).
type KeyPair struct {
	Cert       string   `json:"cert"`                  // PEM: the server's own certificate, then those above it
	Key        string   `json:"key"`                   // PEM; may be the same file
	Ciphers    []uint16 `json:"ciphers,omitempty"`     // of TLS 1.2, by number; none: the library's choice
	ClientCA   string   `json:"client_ca,omitempty"`   // PEM: who vouches for clients; empty: they are not asked
	ClientMust bool     `json:"client_must,omitempty"` // a client without a certificate is not served
	At         Origin   `json:"at"`
	OptionKey  string   `json:"option"` // the option, for messages
}

// Files are the paths that p names.
func (p *KeyPair) Files() []string {
	out := []string{p.Cert}
	if p.Key != p.Cert {
		out = append(out, p.Key)
	}
	if p.ClientCA != "" {
		out = append(out, p.ClientCA)
	}
	return out
}

// ServerName is a certificate for clients that ask for a name (RFC 6066 3).
type ServerName struct {
	Name    string `json:"name"`             // in lower case; a regular expression of package regexp with Regexp
	Regexp  bool   `json:"regexp,omitempty"` // sni-regexp
	KeyPair `json:"pair"`
}

// TLS is what all listeners that speak TLS have in common.
type TLS struct {
	Names      []ServerName `json:"names,omitempty"` // sni first, then sni-regexp, in the order of the lines
	Dir        string       `json:"dir,omitempty"`   // sni-dir: NAME.crt, NAME.key, NAME.ca
	DirAt      Origin       `json:"dir_at,omitzero"`
	DirCiphers []uint16     `json:"dir_ciphers,omitempty"` // sni-dir-ciphers
	Depth      int          `json:"depth,omitempty"`       // ssl-verify-depth: certificates between a client's and its authority's
	ExportCert bool         `json:"export_cert,omitempty"` // https-export-cert: HTTPS_CC
	Verbose    bool         `json:"verbose,omitempty"`     // ssl-verbose: a line for each handshake that fails
}

// Limits of certificates.
const (
	MaxCertFile  = 1 << 20 // bytes of one file
	MaxCertFiles = 8 << 20 // bytes of all files of a vassal
	MaxCertNames = 4096    // files of sni-dir
)

// CertFiles are the bytes of the files that an App's KeyPairs name, by path,
// and of those in its TLS.Dir; nil: a file there that could not be read.
// They hold private keys: never shown, never logged.
type CertFiles map[string][]byte

// SpeaksTLS reports whether a has a listener that needs certificates.
func (a *App) SpeaksTLS() bool {
	for i := range a.Listen {
		if a.Listen[i].TLS != nil {
			return true
		}
	}
	return false
}

// KeyPairs are all certificates that lines of the file name.
func (a *App) KeyPairs() []*KeyPair {
	var out []*KeyPair
	for i := range a.Listen {
		if p := a.Listen[i].TLS; p != nil {
			out = append(out, p)
		}
	}
	if a.TLS != nil {
		for i := range a.TLS.Names {
			out = append(out, &a.TLS.Names[i].KeyPair)
		}
	}
	return out
}
