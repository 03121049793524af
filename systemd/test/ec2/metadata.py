"""An instance's metadata service (version 2), for the instance that the file $CURRENT numbers, as it was launched in the
account $AWS_ACCOUNT; serves the package as /quire.deb, too."""

import http.server
import json
import sys

account, current, package, port = sys.argv[1:]
TOKEN = "token-of-this-boot"


def instance():
    calls = json.load(open(account))["calls"]
    launched = [call["params"] for call in calls if call["operation"] == "RunInstances"]
    return launched[int(open(current).read())]


class Metadata(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        wanted = self.path == "/latest/api/token" and 1 <= int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "0")) <= 21600
        self.answer(*((200, TOKEN.encode()) if wanted else (400, b"")))

    def do_GET(self):
        if self.path == "/quire.deb":
            return self.answer(200, open(package, "rb").read())
        launched = instance()
        options = launched["MetadataOptions"]
        if options["HttpTokens"] == "required" and self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return self.answer(401)
        what = self.path.removeprefix("/latest/meta-data/")
        tags = {tag["Key"]: tag["Value"] for tags in launched["TagSpecifications"] if tags["ResourceType"] == "instance" for tag in tags["Tags"]}
        if what == "local-ipv4":
            self.answer(200, launched["NetworkInterfaces"][0]["PrivateIpAddress"].encode())
        elif what.startswith("tags/instance/") and options["InstanceMetadataTags"] == "enabled" and what[14:] in tags:
            self.answer(200, tags[what[14:]].encode())
        else:
            self.answer(404)

    def log_message(self, *_):
        pass


http.server.HTTPServer(("169.254.169.254", int(port)), Metadata).serve_forever()
