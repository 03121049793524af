"""What `launch.sh up` asked of the account, judged. story.py ACCOUNT INSTANCES PACKAGE_SHA256; exit code 1 and a line for
what is wrong. `story.py ACCOUNT DIRECTORY` writes each instance's user data there instead, with its package's address replaced."""

import base64
import json
import os
import re
import sys

account = json.load(open(sys.argv[1]))
launched = [call["params"] for call in account["calls"] if call["operation"] == "RunInstances"]


def tags_of(instance):
    return {tag["Key"]: tag["Value"] for tags in instance["TagSpecifications"] if tags["ResourceType"] == "instance" for tag in tags["Tags"]}


def user_data(instance):
    raw = instance["UserData"]
    return raw if raw.startswith("#!") else base64.b64decode(raw).decode()


if not sys.argv[2].isdigit():
    for number, instance in enumerate(launched):
        with open(os.path.join(sys.argv[2], f"user-data-{number}"), "w") as file:
            file.write(re.sub(r"^package_url='https://[^']*'$", "package_url='http://169.254.169.254/quire.deb'", user_data(instance), flags=re.M))
    sys.exit()


def want(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: found {found!r}, wanted {wanted!r}")


want("instances", len(launched), int(sys.argv[2]))
daemons = sorted(daemon for instance in launched for daemon in tags_of(instance)["quire-daemons"].split())
want("daemons", daemons, ["catalog-111", "catalog-114", "catalog-123", "frontend", "order-1", "order-2", "order-3"])

# Open to the world: the front end's port, on the instance with the front end.
groups = {name: what["rules"] for name, what in account["things"].items() if what["kind"] == "security-group"}
world = {name: rules for name, rules in groups.items() if "IpRanges" in json.dumps(rules)}
want("groups that are open to addresses", [[(r["FromPort"], r["ToPort"], r["IpRanges"]) for r in rules] for rules in world.values()],
     [[(5004, 5004, [{"CidrIp": "0.0.0.0/0"}])]])
inner = [name for name in groups if name not in world]
want("inner groups", len(inner), 1)
for rule in groups[inner[0]]:
    want("who may come in", [pair["GroupId"] for pair in rule["UserIdGroupPairs"]], inner)
    for port in (5002, 7002, 5004, 7004, 5007, 7007):
        want(f"port {port} open among the instances", rule["FromPort"] <= port <= rule["ToPort"], True)
    want("port 22 open among the instances", rule["FromPort"] <= 22 <= rule["ToPort"], False)

addresses = {}
zones = {}
for instance in launched:
    tags, interface = tags_of(instance), instance["NetworkInterfaces"][0]
    front = "frontend" in tags["quire-daemons"].split()
    want(f"groups of {tags['Name']}", sorted(interface["Groups"]), sorted(inner + (list(world) if front else [])))
    want(f"public address of {tags['Name']}", interface["AssociatePublicIpAddress"], front)
    metadata = instance["MetadataOptions"]
    want("metadata", (metadata["HttpTokens"], metadata["HttpPutResponseHopLimit"], metadata["InstanceMetadataTags"]), ("required", 1, "enabled"))
    want("disk", [(d["Ebs"]["VolumeType"], d["Ebs"]["Encrypted"]) for d in instance["BlockDeviceMappings"]], [("gp3", True)])
    want("image", instance["ImageId"], f"ami-{17:017x}")
    for daemon in tags["quire-daemons"].split():
        addresses[daemon] = interface["PrivateIpAddress"]
        zones[daemon] = account["things"][interface["SubnetId"]]["zone"] if interface["SubnetId"] in account["things"] else None
    text = user_data(instance)
    want("user data of at most 16 KiB", len(text) <= 16384, True)
    want("sum of the package", re.findall(r"^package_sha256='(.*)'$", text, flags=re.M), [sys.argv[3]])
    want("links to the package at the region's own address", len(re.findall(r"^package_url='https://s3\.eu-central-1\.amazonaws\.com/quire-vpc-[0-9a-f]+/quire\.deb\?[^']*Signature=[^']*'$", text, flags=re.M)), 1)

for instance in launched:
    for role, tag in (("catalog", "quire-catalogs"), ("order", "quire-orders")):
        listed = {f"{role}-{part.split('=')[0]}": part.split("=")[1] for part in tags_of(instance)[tag].split()}
        want(tag, listed, {daemon: address for daemon, address in addresses.items() if daemon.startswith(role)})
for role in ("catalog", "order"):
    want(f"zones of the {role} replicas", len({zone for daemon, zone in zones.items() if daemon.startswith(role)}), 3)
