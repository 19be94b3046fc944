package front

import (
	"encoding/asn1"
	"fmt"
	"strings"
	"unicode/utf8"

	"crypto/x509/pkix"
)

// attributes are the short names that OpenSSL has for parts of a name.
var attributes = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
	"2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.17": "postalCode", "2.5.4.42": "GN",
	"2.5.4.43": "initials", "2.5.4.46": "dnQualifier", "2.5.4.65": "pseudonym", "2.5.4.97": "organizationIdentifier",
	"0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "emailAddress",
}

// distinguishedName writes a certificate's subject as OpenSSL's
// X509_NAME_oneline does and uWSGI gives it to the app: "/C=DE/O=Acme/CN=joe".
// Unlike there, a "/" inside a value is \x2F as well: else an authority's
// customer could write himself another CN into his organisation.
func distinguishedName(der []byte) string {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return ""
	}
	var b strings.Builder
	for _, set := range rdns {
		for _, a := range set {
			name := a.Type.String()
			if short, ok := attributes[name]; ok {
				name = short
			}
			b.WriteByte('/')
			b.WriteString(name)
			b.WriteByte('=')
			writeEscaped(&b, fmt.Sprint(a.Value))
		}
	}
	return b.String()
}

// writeEscaped writes s in printable ASCII.
func writeEscaped(b *strings.Builder, s string) {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "?")
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '/' || c == '\\' {
			fmt.Fprintf(b, `\x%02X`, c)
		} else {
			b.WriteByte(c)
		}
	}
}
